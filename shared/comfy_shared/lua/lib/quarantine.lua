-- NEEDS: task_prefix story_prefix finished damaged
-- Sets a task with a broken record aside: it is listed, never looked at again, and purged like a finished one.
local function quarantine(id)
  redis.call('ZADD', damaged, now, 'task:' .. id)
  redis.call('ZREMRANGEBYRANK', damaged, 0, -1001)
  redis.call('ZADD', finished, now, id)
  redis.call('EXPIRE', task_prefix .. id, 2592000)
  redis.call('EXPIRE', story_prefix .. id, 2592000)
end
