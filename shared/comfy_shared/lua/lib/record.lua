-- NEEDS: task_prefix story_prefix events
-- A task's record: read and checked in one call, changed in memory, written in one call. `tell` adds to its story: numbered without gaps in a
-- list of its own, and once more in the stream that every balancer tails. A line is "number kind time attempt data". It is a list because a
-- stream reserves 4 KiB for its first entry.
local FIELDS = {
  'id', 'owner', 'lane', 'status', 'created_at', 'order', 'attempt', 'max_attempts', 'events', 'priority', 'crashes', 'timeouts', 'avoid_until',
  'started_at', 'finished_at', 'memory_place', 'agent', 'session', 'prompt_id', 'settled', 'avoid', 'more_vram', 'assigned', 'reuse', 'joined', 'reused',
  'batch',
}

local function whole(text)
  return type(text) == 'string' and #text < 17 and text:find('^%d+$') ~= nil
end

-- The record, or nil when a transition cannot work with it: hostile or broken bytes there must neither stop a step halfway nor block others.
local function open(id)
  local values = redis.pcall('HMGET', task_prefix .. id, unpack(FIELDS))
  if values.err or values[1] ~= id or not values[2] or not values[3] then return nil end
  local task = {changes = {}, gone = {}}
  for i, name in ipairs(FIELDS) do
    local value = values[i]
    if i > 4 and i <= 16 and (value or i <= 10) then  -- the numbers, of which the first must be there
      if not whole(value) then return nil end
      if i > 6 then value = tonumber(value) end  -- the first two are only handed on
    end
    task[name] = value or nil
  end
  local last = redis.pcall('LINDEX', story_prefix .. id, -1)
  local number = type(last) == 'string' and tonumber(last:match('^%d+'))
  if not number or number > task.events then return nil end
  return task
end

local function put(task, name, value)
  task[name] = value
  task.changes[#task.changes + 1] = name
  task.changes[#task.changes + 1] = value
end

local function drop(task, ...)
  for _, name in ipairs({...}) do
    task[name] = nil
    task.gone[#task.gone + 1] = name
  end
end

local function save(task)
  if #task.gone > 0 then redis.call('HDEL', task_prefix .. task.id, unpack(task.gone)) end
  if #task.changes > 0 then redis.call('HSET', task_prefix .. task.id, unpack(task.changes)) end
  task.changes, task.gone = {}, {}
end

local function tell(task, kind, data)
  local number = task.events + 1
  put(task, 'events', number)
  local line = table.concat({number, kind, now_text, task.attempt, data}, ' ')
  redis.call('RPUSH', story_prefix .. task.id, line)
  if number > 2000 then redis.call('LTRIM', story_prefix .. task.id, -2000, -1) end
  if task.batch then
    redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', task.id, 'line', line, 'batch', task.batch)
  else
    redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', task.id, 'line', line)
  end
end

local function whole_record(task)
  return unpack(redis.call('HGETALL', task_prefix .. task.id))
end
