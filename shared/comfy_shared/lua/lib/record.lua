-- NEEDS: task_prefix story_prefix events
-- A task's record: read and checked in one call, changed in memory, written in one call. `tell` adds to its story: numbered without gaps in a
-- list of its own, and once more in the stream that every balancer tails. A line is "number kind time attempt data". It is a list because a
-- stream reserves 4 KiB for its first entry.
local function whole(text)
  return text and #text < 17 and text:find('^%d+$')
end

-- The record, or nil when a transition cannot work with it: hostile or broken bytes there must neither stop a step halfway nor block others.
local function open(id)
  local read = redis.pcall('HMGET', task_prefix .. id, 'id', 'owner', 'lane', 'status', 'created_at', 'order', 'attempt', 'max_attempts', 'events',
    'priority', 'crashes', 'timeouts', 'avoid_until', 'started_at', 'finished_at', 'memory_place', 'agent', 'session', 'prompt_id', 'settled', 'avoid',
    'more_vram', 'assigned', 'reuse', 'joined', 'reused', 'batch')
  if read.err or read[1] ~= id or not read[2] or not read[3] then return nil end
  for i = 5, 16 do  -- the numbers, of which the first must be there
    local value = read[i]
    if value then
      if not whole(value) then return nil end
      if i > 6 then read[i] = tonumber(value) end  -- the first two are only handed on
    elseif i <= 10 then
      return nil
    end
  end
  local last = redis.pcall('LINDEX', story_prefix .. id, '-1')
  local number = type(last) == 'string' and tonumber(last:match('^%d+'))
  if not number or number > read[9] then return nil end
  return {  -- written out: a table that grows name by name is twice as slow
    id = id, owner = read[2], lane = read[3], status = read[4] or nil, created_at = read[5], order = read[6], attempt = read[7], max_attempts = read[8],
    events = read[9], priority = read[10], crashes = read[11] or nil, timeouts = read[12] or nil, avoid_until = read[13] or nil,
    started_at = read[14] or nil, finished_at = read[15] or nil, memory_place = read[16] or nil, agent = read[17] or nil, session = read[18] or nil,
    prompt_id = read[19] or nil, settled = read[20] or nil, avoid = read[21] or nil, more_vram = read[22] or nil, assigned = read[23] or nil,
    reuse = read[24] or nil, joined = read[25] or nil, reused = read[26] or nil, batch = read[27] or nil, changes = {}, gone = {},
  }
end

local function put(task, name, value)
  local changes = task.changes
  local number = #changes
  task[name] = value
  changes[number + 1] = name
  changes[number + 2] = value
end

local function put_number(task, name, value)
  put(task, name, whole_text(value))
  task[name] = value
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
  put_number(task, 'events', number)
  local line = number .. ' ' .. kind .. ' ' .. now_text .. ' ' .. task.attempt .. ' ' .. data
  redis.call('RPUSH', story_prefix .. task.id, line)
  if number > 2000 then redis.call('LTRIM', story_prefix .. task.id, '-2000', '-1') end
  if task.batch then
    redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', task.id, 'line', line, 'batch', task.batch)
  else
    redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', task.id, 'line', line)
  end
end

local function whole_record(task)  -- field, value…
  return redis.call('HGETALL', task_prefix .. task.id)
end
