-- deregister: the agent goes away on purpose; its record and its offer are forgotten at once.
-- KEYS: clock agents agent_prefix verdicts_prefix idle events memory_prefix servers_prefix stats_prefix vram
-- ARGV: agent session
-- USES: offset time memory
-- Replies: ok | replaced
if redis.call('HGET', agent_prefix .. agent, 'session') ~= session then return 'replaced' end
redis.call('DEL', agent_prefix .. agent, verdicts_prefix .. agent)
forget(agent)
redis.call('ZREM', agents, agent)
redis.call('ZREM', idle, agent)
redis.call('ZREM', vram, agent)
redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'agents', 'at', now, 'agent', agent)
return 'ok'
