-- renew: prolong the leases of the attempts that the agent still holds.
-- KEYS: clock leases task_prefix
-- ARGV: session lease_ms attempts
-- USES: offset time
-- Input: `attempts` is msgpack: task id → attempt.
-- Replies: the ids that are lost.
local lost = {}
redis.call('ZREM', leases, '')  -- needs no memory: a Redis at its limit refuses only the first write of a step
for id, attempt in pairs(cmsgpack.unpack(attempts)) do
  -- pcall: one key of a wrong type must not take the leases of the others
  local fields = redis.pcall('HMGET', task_prefix .. id, 'status', 'attempt', 'session')
  if fields[1] == 'running' and fields[2] == tostring(attempt) and fields[3] == session then
    redis.call('ZADD', leases, now + tonumber(lease_ms), id)
  else
    -- A promoted replica may not know of this attempt: its number must not be given again.
    local known = tonumber(fields[2])
    if known and known < attempt then redis.call('HSET', task_prefix .. id, 'attempt', attempt) end
    lost[#lost + 1] = id
  end
end
return lost
