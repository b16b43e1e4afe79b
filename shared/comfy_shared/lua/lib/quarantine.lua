-- NEEDS: task_prefix story_prefix finished damaged queue lane_prefix batch_prefix
-- Sets a task with a broken record aside: it is listed, never looked at again, and purged like a finished one.
local function quarantine(id)
  redis.call('ZADD', damaged, now, 'task:' .. id)
  redis.call('ZREMRANGEBYRANK', damaged, 0, -1001)
  redis.call('ZADD', finished, now, id)
  redis.call('EXPIRE', task_prefix .. id, 2592000)
  redis.call('EXPIRE', story_prefix .. id, 2592000)
  local reuse = redis.pcall('HGET', task_prefix .. id, 'reuse')
  local batch, status = redis.pcall('HGET', task_prefix .. id, 'batch'), redis.pcall('HGET', task_prefix .. id, 'status')
  if type(batch) == 'string' and (status == 'pending' or status == 'running') then tally(batch, status, 'failed') end
  pass_on(id, type(reuse) == 'string' and reuse or '', 2592000000)
end

local function set_aside(id, lane, owner)  -- rare: one that waits: whatever of its places is right, it leaves them
  local agent = redis.pcall('HGET', task_prefix .. id, 'assigned')
  leave(id, lane, owner, type(agent) == 'string' and agent)
  quarantine(id)
end
