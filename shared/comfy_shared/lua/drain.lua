-- drain: tell an agent to claim no more, or (resume) to claim again.
-- KEYS: clock agent_prefix idle draining events
-- ARGV: agent on
-- USES: time
-- Replies: ok | unknown
if redis.call('EXISTS', agent_prefix .. agent) == 0 then return 'unknown' end
redis.call(on == '1' and 'SADD' or 'SREM', draining, agent)
if on == '1' then redis.call('ZREM', idle, agent) end  -- nobody wakes it any more
redis.call('PUBLISH', agent_prefix .. agent, on == '1' and 'drain' or 'resume')
redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'agents', 'at', now, 'agent', agent)
return 'ok'
