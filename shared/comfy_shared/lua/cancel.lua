-- cancel: a pending or running task is canceled for good in this step; an agent that runs it is told and can no longer report.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agent_prefix held_prefix waiting working usage assigned_prefix
-- ARGV: id retention_ms
-- USES: time story usage place move sound
-- Replies: {canceled} | {already, status} | {unknown} | {damaged}
local key = task_prefix .. id
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
if not sound(id) then return {'damaged'} end
local fields = redis.call('HMGET', key, 'status', 'agent', 'attempt', 'created_at', 'lane', 'owner', 'started_at')
local status = fields[1]
if status == 'pending' then
  dequeue(id, fields[5], fields[6])
elseif status == 'running' then
  end_lease(id, fields[2], fields[6])
  charge(fields[6], now - (tonumber(fields[7]) or now))
  redis.call('PUBLISH', agent_prefix .. fields[2], 'cancel ' .. id .. ' ' .. fields[3])
else
  return {'already', status}
end
finish(id, status, 'canceled', fields[4], 'canceled', fields[3], '{}', retention_ms)
return {'canceled'}
