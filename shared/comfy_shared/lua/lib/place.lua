-- NEEDS: queue lanes lane_prefix turn_prefix owners_prefix needs_prefix waiting assigned_prefix
-- A waiting task's place: in the queue of all (its position), in its lane (who can take it) and in its owner's turn there (fair share).
-- Lower order goes first. Calls that share a command remember what it holds for the next of them.
local length  -- of the queue, once somebody asked
local function queue_length()
  length = length or redis.call('ZCARD', queue)
  return length
end

local single = {}  -- lane → true: one owner at most waits there
local head_of = {}  -- lane → its first task
local at_most = {}  -- lane → an order that its place among the lanes is not behind

local function enqueue(task)  -- true when its lane is new; the caller then sees to what the lane needs
  local lane, owner, order = task.lane, task.owner, task.order
  if redis.call('ZADD', queue, order, task.id) == 1 then
    count(waiting, owner, 1)
    length = length and length + 1
  end
  redis.call('ZADD', lane_prefix .. lane, order, task.id)
  if redis.call('ZADD', turn_prefix .. lane .. ':' .. owner, order, task.id) == 1 then count(owners_prefix .. lane, owner, 1) end
  single[lane] = nil
  local number, first = tonumber(order), at_most[lane]
  if first and number > first then return false end
  local new = redis.call('ZADD', lanes, 'LT', order, lane) == 1
  head_of[lane], at_most[lane] = new and task.id or nil, number
  return new
end

local function put_back(task)  -- what its lane needs may be about to expire: it was kept for those who come back (see leave)
  if enqueue(task) then redis.call('PERSIST', needs_prefix .. task.lane) end
end

local function leave(id, lane, owner, agent)
  if redis.call('ZREM', queue, id) == 1 then
    count(waiting, owner, -1)
    length = length and length - 1
  end
  redis.pcall('ZREM', lane_prefix .. lane, id)
  if redis.pcall('ZREM', turn_prefix .. lane .. ':' .. owner, id) == 1 then count(owners_prefix .. lane, owner, -1) end
  if agent then redis.pcall('ZREM', assigned_prefix .. agent, id) end
  local head = redis.pcall('ZRANGE', lane_prefix .. lane, '0', '0', 'WITHSCORES')
  head_of[lane], at_most[lane] = head[1], nil
  if head[2] then
    redis.call('ZADD', lanes, head[2], lane)
  else
    redis.call('ZREM', lanes, lane)
    redis.call('EXPIRE', needs_prefix .. lane, '2592000')
  end
end

local function dequeue(task)
  leave(task.id, task.lane, task.owner, task.assigned)
  if task.assigned then drop(task, 'assigned') end
end
