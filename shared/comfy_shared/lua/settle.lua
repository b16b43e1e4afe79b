-- settle: end a lease with an outcome. Only the attempt that holds it may; the same call again after a lost reply is ok again.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation
-- ARGV: id attempt session outcome code problem outputs told progress gpu_ms cold avoid_ms retention_ms
-- USES: time story usage place memory apart wake move again sound learn
-- Input: `gpu_ms` is how long the prompt ran, `cold` 1 when it had to load its models, 0 when not, empty when that is not known; outcome is complete, fail, retry or release; `problem` is JSON of TaskError; `outputs` is JSON of the list; `told` is msgpack: the data of one output event each.
-- Replies: the task's status now | stale
if not sound(id) then return 'stale' end
local key = task_prefix .. id
local fields = redis.call('HMGET', key, 'status', 'attempt', 'session', 'agent', 'created_at', 'lane', 'order', 'settled', 'owner', 'started_at', 'memory_place')
if fields[2] ~= attempt or fields[3] ~= session then return 'stale' end
if fields[8] == attempt .. ':' .. outcome then return fields[1] end
if fields[1] ~= 'running' then return 'stale' end
local agent, created, owner = fields[4], fields[5], fields[9]
if outcome == 'retry' and (code == 'instance_lost' or code == 'out_of_memory') then forget(agent) end  -- what it had loaded is gone
-- First, because it needs no memory: a Redis at its limit refuses only the first write of a step, and a running task must be able to end.
end_lease(id, agent, owner)
redis.call('HSET', key, 'settled', attempt .. ':' .. outcome)
if outcome ~= 'release' then
  local ran = tonumber(gpu_ms) or 0
  charge(owner, ran > 0 and ran or now - (tonumber(fields[10]) or now))
end

if outcome == 'retry' then
  return try_again(id, agent, tonumber(attempt), code, problem, avoid_ms, retention_ms)
end
if outcome == 'complete' then
  redis.call('HSET', key, 'outputs', outputs)
  if progress ~= '' then redis.call('HSET', key, 'progress', progress) end
  learn(agent, fields[6], tonumber(fields[11]) or 0, tonumber(gpu_ms) or 0, cold)
  redis.call('HDEL', key, 'error')
  for _, data in ipairs(cmsgpack.unpack(told)) do tell(id, 'output', attempt, data) end
  finish(id, 'running', 'completed', created, 'completed', attempt, cjson.encode({agent = agent}), retention_ms)
  return 'completed'
elseif outcome == 'fail' then
  redis.call('HSET', key, 'error', problem)
  finish(id, 'running', 'failed', created, 'failed', attempt, problem, retention_ms)
  return 'failed'
end
-- release: given back unrun. The attempt's number is spent (it is the fence), so the limit moves instead.
redis.call('HINCRBY', key, 'max_attempts', 1)
redis.call('HDEL', key, 'progress')
change_status(id, 'running', 'pending', created)
tell(id, 'released', attempt, problem)
enqueue(id, fields[6], owner, fields[7])
give(id, fields[6])
return 'pending'
