-- register: an agent says that it is there and what it offers; later calls are its heartbeat.
-- KEYS: clock agents agent_prefix verdicts_prefix idle draining events memory_prefix servers_prefix stats_prefix vram offer
-- ARGV: agent session takeover record vitals digest object_info ttl_ms retention_ms vram_total vram_free
-- USES: offset time memory
-- Input: only a changed `record` is news, `vitals` (free memory …) is not; takeover is 1 for the first call of a session (an older process of the same id is thereby replaced), 0 for a heartbeat; an empty `object_info` means it is stored already.
-- Replies: {ok, 1 when draining} | {replaced} | {unregistered} | {offer}: send object_info as well
local key = agent_prefix .. agent
if redis.call('TYPE', key)['ok'] ~= 'hash' then redis.call('DEL', key) end  -- broken bytes must not keep the agent out
local before = redis.call('HMGET', key, 'session', 'digest', 'record')
if takeover ~= '1' and before[1] ~= session then return {before[1] and 'replaced' or 'unregistered'} end
if digest ~= '' then
  if object_info ~= '' then
    redis.call('SET', offer, object_info)
  elseif redis.call('EXISTS', offer) == 0 then
    return {'offer'}
  end
  redis.call('PEXPIRE', offer, retention_ms)
end
redis.call('HSET', key, 'session', session, 'digest', digest, 'record', record, 'vitals', vitals, 'vram_free', vram_free, 'seen_at', now)
redis.call('ZADD', vram, vram_total, agent)
redis.call('PEXPIRE', key, retention_ms)
local known_until = redis.call('ZSCORE', agents, agent)
redis.call('ZADD', agents, now + tonumber(ttl_ms), agent)
if before[2] ~= digest then redis.call('DEL', verdicts_prefix .. agent) end
if takeover == '1' then redis.call('ZREM', idle, agent) end
redis.call('EXPIRE', memory_prefix .. agent, 86400)
for _, lane in ipairs((residents(agent))) do redis.call('EXPIRE', servers_prefix .. lane, 86400) end
if before[2] ~= digest then forget(agent) end  -- the instance went away or came back
if before[2] ~= digest or before[3] ~= record or not known_until or tonumber(known_until) < now then
  redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'agents', 'at', now, 'agent', agent)
end
return {'ok', redis.call('SISMEMBER', draining, agent)}
