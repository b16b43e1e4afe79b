-- adopt: the agent came back and found its prompt on its instance: the same attempt goes on under the new session.
-- KEYS: clock leases task_prefix story_prefix events held_prefix
-- ARGV: id agent session lease_ms
-- USES: time story sound
-- Replies: {adopted, field, value…} | {gone}: it ended or runs elsewhere
local key = task_prefix .. id
local fields = sound(id) and redis.call('HMGET', key, 'status', 'agent', 'attempt')
if not fields or fields[1] ~= 'running' or fields[2] ~= agent then
  redis.call('SREM', held_prefix .. agent, id)
  return {'gone'}
end
redis.call('HSET', key, 'session', session)
redis.call('ZADD', leases, now + tonumber(lease_ms), id)
tell(id, 'adopted', fields[3], cjson.encode({agent = agent}))
return {'adopted', unpack(redis.call('HGETALL', key))}
