-- NEEDS: task_prefix story_prefix
-- Whether a transition can work with a task's record. Hostile or broken bytes there must neither stop a step halfway nor block other tasks.
local function whole(text)
  return type(text) == 'string' and #text < 17 and text:find('^%d+$') ~= nil
end

local function sound(id)
  local key, story = task_prefix .. id, story_prefix .. id
  local fields = redis.pcall('HMGET', key, 'id', 'owner', 'lane', 'attempt', 'max_attempts', 'created_at', 'order', 'events', 'priority', 'crashes', 'timeouts', 'avoid_until')
  if fields.err or fields[1] ~= id or not fields[2] or not fields[3] then return false end
  for i = 4, 9 do
    if not whole(fields[i]) then return false end
  end
  for i = 10, 12 do
    if fields[i] and not whole(fields[i]) then return false end
  end
  local last = redis.pcall('LINDEX', story, -1)
  if type(last) ~= 'string' then return false end
  local number = tonumber(last:match('^%d+'))
  return number ~= nil and number <= tonumber(fields[8])
end
