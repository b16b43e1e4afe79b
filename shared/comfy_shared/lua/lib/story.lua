-- NEEDS: task_prefix story_prefix events
-- The task's story: numbered without gaps in a list of its own, and once more in the stream that every balancer tails. A line is
-- "number kind time attempt data". It is a list because a stream reserves 4 KiB for its first entry.
local function tell(id, kind, attempt, data)
  local number = redis.call('HINCRBY', task_prefix .. id, 'events', 1)
  local line = table.concat({number, kind, string.format('%.0f', now), attempt, data}, ' ')
  redis.call('RPUSH', story_prefix .. id, line)
  if number > 2000 then redis.call('LTRIM', story_prefix .. id, -2000, -1) end
  redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', id, 'line', line)
end
