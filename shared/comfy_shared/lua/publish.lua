-- publish: keep a workflow under its name, unless the very same is there already.
-- KEYS: clock workflows workflow events
-- ARGV: name digest content
-- USES: time
-- Replies: written | unchanged
if redis.call('HGET', workflows, name) == digest and redis.call('EXISTS', workflow) == 1 then return 'unchanged' end
redis.call('SET', workflow, content)
redis.call('HSET', workflows, name, digest)
redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'workflow', 'at', now, 'workflow', name)
return 'written'
