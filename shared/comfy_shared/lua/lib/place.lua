-- NEEDS: queue lanes lane_prefix turn_prefix owners_prefix needs_prefix waiting task_prefix assigned_prefix
-- A waiting task's place: in the queue of all (its position), in its lane (who can take it) and in its owner's turn there (fair share).
-- Lower order goes first.
local function refresh_lane(lane)
  local head = redis.call('ZRANGE', lane_prefix .. lane, 0, 0, 'WITHSCORES')
  if head[1] then
    redis.call('ZADD', lanes, head[2], lane)
    redis.call('PERSIST', needs_prefix .. lane)
  else
    redis.call('ZREM', lanes, lane)
    redis.call('EXPIRE', needs_prefix .. lane, 2592000)
  end
end

local function enqueue(id, lane, owner, order)
  if redis.call('ZADD', queue, order, id) == 1 then count(waiting, owner, 1) end
  redis.call('ZADD', lane_prefix .. lane, order, id)
  if redis.call('ZADD', turn_prefix .. lane .. ':' .. owner, order, id) == 1 then count(owners_prefix .. lane, owner, 1) end
  refresh_lane(lane)
end

local function dequeue(id, lane, owner)
  if redis.call('ZREM', queue, id) == 1 then count(waiting, owner, -1) end
  redis.pcall('ZREM', lane_prefix .. lane, id)
  if redis.pcall('ZREM', turn_prefix .. lane .. ':' .. owner, id) == 1 then count(owners_prefix .. lane, owner, -1) end
  local agent = redis.pcall('HGET', task_prefix .. id, 'assigned')
  if type(agent) == 'string' then
    redis.pcall('ZREM', assigned_prefix .. agent, id)
    redis.call('HDEL', task_prefix .. id, 'assigned')
  end
  refresh_lane(lane)
end
