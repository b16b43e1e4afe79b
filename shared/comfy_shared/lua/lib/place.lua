-- NEEDS: queue lanes lane_prefix turn_prefix owners_prefix needs_prefix waiting assigned_prefix
-- A waiting task's place: in the queue of all (its position), in its lane (who can take it) and in its owner's turn there (fair share).
-- Lower order goes first.
local function enqueue(task)  -- true when its lane is new
  local lane, owner, order = task.lane, task.owner, task.order
  if redis.call('ZADD', queue, order, task.id) == 1 then count(waiting, owner, '1') end
  redis.call('ZADD', lane_prefix .. lane, order, task.id)
  if redis.call('ZADD', turn_prefix .. lane .. ':' .. owner, order, task.id) == 1 then count(owners_prefix .. lane, owner, '1') end
  if redis.call('ZADD', lanes, 'LT', order, lane) == 0 then return false end
  redis.call('PERSIST', needs_prefix .. lane)
  return true
end

local function leave(id, lane, owner, agent)
  if redis.call('ZREM', queue, id) == 1 then count(waiting, owner, '-1') end
  redis.pcall('ZREM', lane_prefix .. lane, id)
  if redis.pcall('ZREM', turn_prefix .. lane .. ':' .. owner, id) == 1 then count(owners_prefix .. lane, owner, '-1') end
  if agent then redis.pcall('ZREM', assigned_prefix .. agent, id) end
  local head = redis.pcall('ZRANGE', lane_prefix .. lane, '0', '0', 'WITHSCORES')
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
