-- NEEDS: task_prefix story_prefix
-- Whether a transition can work with a task's record. Hostile or broken bytes there must neither stop a step halfway nor block other tasks.
local function whole(text)
  return type(text) == 'string' and #text < 17 and text:find('^%d+$') ~= nil
end

local function sound(id)
  local key, story = task_prefix .. id, story_prefix .. id
  if redis.call('TYPE', key)['ok'] ~= 'hash' or redis.call('TYPE', story)['ok'] ~= 'stream' then return false end
  local fields = redis.call('HMGET', key, 'id', 'owner', 'lane', 'attempt', 'max_attempts', 'created_at', 'order', 'events', 'crashes', 'timeouts', 'avoid_until')
  if fields[1] ~= id or not fields[2] or not fields[3] then return false end
  for i = 4, 8 do
    if not whole(fields[i]) then return false end
  end
  for i = 9, 11 do
    if fields[i] and not whole(fields[i]) then return false end
  end
  local last = redis.call('XREVRANGE', story, '+', '-', 'COUNT', 1)[1]
  return not last or tonumber(last[1]:match('^%d+')) <= tonumber(fields[8])
end
