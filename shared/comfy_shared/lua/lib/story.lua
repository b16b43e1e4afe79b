-- NEEDS: task_prefix story_prefix events
-- The task's story: numbered without gaps in its own stream, and once more in the stream that every balancer tails.
local function tell(id, kind, attempt, data)
  local seq = redis.call('HINCRBY', task_prefix .. id, 'events', 1)
  redis.call('XADD', story_prefix .. id, 'MAXLEN', '~', '2000', seq .. '-0',
    'type', kind, 'at', now, 'attempt', attempt, 'data', data)
  redis.call('XADD', events, 'MAXLEN', '~', '20000', '*',
    'task', id, 'seq', seq, 'type', kind, 'at', now, 'attempt', attempt, 'data', data)
end
