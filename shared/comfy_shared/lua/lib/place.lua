-- NEEDS: queue lanes lane_prefix needs_prefix
-- A waiting task's place: in the queue of all (its position) and in its lane (who can take it). Lower order goes first.
local function refresh_lane(lane)
  local head = redis.call('ZRANGE', lane_prefix .. lane, 0, 0, 'WITHSCORES')
  if head[1] then
    redis.call('ZADD', lanes, head[2], lane)
    redis.call('PERSIST', needs_prefix .. lane)
  else
    redis.call('ZREM', lanes, lane)
    redis.call('EXPIRE', needs_prefix .. lane, 86400)
  end
end

local function enqueue(id, lane, order)
  redis.call('ZADD', queue, order, id)
  redis.call('ZADD', lane_prefix .. lane, order, id)
  refresh_lane(lane)
end

local function dequeue(id, lane)
  redis.call('ZREM', queue, id)
  redis.call('ZREM', lane_prefix .. lane, id)
  refresh_lane(lane)
end
