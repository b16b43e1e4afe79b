-- drain: tell an agent to claim no more, or (resume) to claim again.
-- KEYS: clock agent_prefix idle draining events memory_prefix servers_prefix stats_prefix
-- ARGV: agent on
-- USES: offset time memory
-- Replies: ok | unknown
if redis.call('EXISTS', agent_prefix .. agent) == 0 then return 'unknown' end
redis.call(on == '1' and 'SADD' or 'SREM', draining, agent)
if on == '1' then
  redis.call('ZREM', idle, agent)  -- nobody wakes it any more
  forget(agent)  -- and nobody waits for it because it has a lane in memory
end
redis.call('PUBLISH', agent_prefix .. agent, on == '1' and 'drain' or 'resume')
redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'agents', 'at', now, 'agent', agent)
return 'ok'
