-- NEEDS: task_prefix story_prefix
-- A task's record: read and checked in one call, changed in memory, written in one call. `tell` adds to its story: numbered without gaps in a
-- list of its own, and once more in the stream that every balancer tails. A line is "number kind time attempt data". It is a list because a
-- stream reserves 4 KiB for its first entry; its last 2,000 lines are kept.
local function whole(text)
  return text and #text < 17 and text:find('^%d+$')
end

local MUST, MAY = {'attempt', 'max_attempts', 'events', 'priority'}, {'crashes', 'timeouts', 'avoid_until', 'started_at', 'finished_at', 'memory_place'}

-- Most are these, and to read one is slow.
local NUMBER = {['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3, ['4'] = 4, ['5'] = 5, ['9'] = 9}

local function whole_number(value)  -- or nil
  local number = NUMBER[value]
  if number then return number end
  number = tonumber(value)
  return number and number >= 0 and number < 1e16 and number % 1 == 0 and number or nil
end

local function checked(id, task)  -- or nil when a transition cannot work with it: broken bytes must neither stop a step halfway nor block others
  if task.id ~= id or not task.owner or not task.lane or not whole(task.created_at) or not whole(task.order) then return nil end
  for _, name in ipairs(MUST) do
    local number = whole_number(task[name])
    if not number then return nil end
    task[name] = number
  end
  for _, name in ipairs(MAY) do
    if task[name] then
      local number = whole_number(task[name])
      if not number then return nil end
      task[name] = number
    end
  end
  return task
end

local function open(id)  -- without its prompt and all else that only agents and people read; what it lacks is false
  local read = redis.pcall('HMGET', task_prefix .. id, 'id', 'owner', 'lane', 'status', 'created_at', 'order', 'attempt', 'max_attempts', 'events',
    'priority', 'crashes', 'timeouts', 'avoid_until', 'started_at', 'finished_at', 'memory_place', 'agent', 'session', 'prompt_id', 'settled', 'avoid',
    'more_vram', 'assigned', 'reuse', 'joined', 'reused', 'batch')
  if read.err then return nil end
  return checked(id, {  -- written out: a table that grows name by name is twice as slow
    id = read[1], owner = read[2], lane = read[3], status = read[4], created_at = read[5], order = read[6],
    attempt = read[7], max_attempts = read[8], events = read[9], priority = read[10], crashes = read[11],
    timeouts = read[12], avoid_until = read[13], started_at = read[14], finished_at = read[15],
    memory_place = read[16], agent = read[17], session = read[18], prompt_id = read[19], settled = read[20],
    avoid = read[21], more_vram = read[22], assigned = read[23], reuse = read[24], joined = read[25],
    reused = read[26], batch = read[27], changes = {}, gone = {},
  })
end

local function open_whole(id)  -- all of it, for one call less than to read it twice; `fields` is field, value… as read
  local fields = redis.pcall('HGETALL', task_prefix .. id)
  if fields.err then return nil end
  local task = {  -- written out, as there
    id = false, owner = false, lane = false, status = false, created_at = false, order = false, attempt = false, max_attempts = false, events = false,
    priority = false, crashes = false, timeouts = false, avoid_until = false, started_at = false, finished_at = false, memory_place = false,
    agent = false, session = false, prompt_id = false, settled = false, avoid = false, more_vram = false, assigned = false, reuse = false,
    joined = false, reused = false, batch = false, prompt = false, timeout = false, fields = false, changes = false, gone = false,
  }
  for i = 1, #fields, 2 do task[fields[i]] = fields[i + 1] end
  task.fields, task.changes, task.gone = fields, {}, {}
  return checked(id, task)
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
  local story, number = story_prefix .. task.id, task.events + 1
  local text = ' ' .. kind .. ' ' .. now_text .. ' ' .. task.attempt .. ' ' .. data
  local line = whole_text(number) .. text
  local length = write('RPUSH', story, line)
  if length > number then  -- the count is broken; it goes on from where the story is
    number = length
    line = whole_text(number) .. text
    redis.call('LSET', story, '-1', line)
  end
  if number > 2000 then redis.call('LTRIM', story, '-2000', '-1') end
  put_number(task, 'events', number)
  stream(task, line)
end

local function whole_record(task)  -- field, value…
  return redis.call('HGETALL', task_prefix .. task.id)
end

local function saved_whole(task)  -- saves one that was opened whole; its record then, in which the last value of a field counts
  local fields, changes = task.fields, task.changes
  local dropped = #task.gone > 0
  save(task)
  if dropped then return whole_record(task) end
  local number = #fields
  for i = 1, #changes do fields[number + i] = changes[i] end
  return fields
end
