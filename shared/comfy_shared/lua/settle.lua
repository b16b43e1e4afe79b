-- settle: end a lease with an outcome. Only the attempt that holds it may; the same call again after a lost reply is ok again.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses batch_prefix
-- ARGV: id attempt session outcome code problem outputs told progress shown gpu_ms cold avoid_ms retention_ms
-- USES: time record usage place memory apart wake move again learn
-- Input: `gpu_ms` is how long the prompt ran, `cold` 1 when it had to load its models, 0 when not, empty when that is not known; `shown` is packed bytes for ComfyUI clients, or empty; outcome is complete, fail, retry or release; `problem` is JSON of TaskError; `outputs` is JSON of the list; `told` is msgpack: the data of one output event each.
-- Replies: the task's status now | stale
local task = open(id)
if not task or tostring(task.attempt) ~= attempt or task.session ~= session then return 'stale' end
if task.settled == attempt .. ':' .. outcome then return task.status end
if task.status ~= 'running' then return 'stale' end
if outcome == 'retry' and (code == 'instance_lost' or code == 'out_of_memory') then forget(task.agent) end  -- what it had loaded is gone
-- First, because it needs no memory: a Redis at its limit refuses only the first write of a step, and a running task must be able to end.
end_lease(task)
put(task, 'settled', attempt .. ':' .. outcome)
local ran = tonumber(gpu_ms) or 0
if outcome ~= 'release' then charge(task.owner, ran > 0 and ran or now - (task.started_at or now)) end

if outcome == 'retry' then
  return try_again(task, code, problem, avoid_ms, retention_ms)
elseif outcome == 'complete' then
  put(task, 'outputs', outputs)
  if progress ~= '' then put(task, 'progress', progress) end
  if shown ~= '' then put(task, 'shown', shown) end
  learn(task.agent, task.lane, task.memory_place or 0, ran, cold)
  if task.attempt > 1 then drop(task, 'error') end  -- of an earlier attempt
  local lines = cmsgpack.unpack(told)
  for _, data in ipairs(lines) do tell(task, 'output', data) end
  finish(task, 'completed', cjson.encode({agent = task.agent}), retention_ms, outputs, lines)
  return 'completed'
elseif outcome == 'fail' then
  put(task, 'error', problem)
  finish(task, 'failed', problem, retention_ms)
  return 'failed'
end
-- release: given back unrun. The attempt's number is spent (it is the fence), so the limit moves instead.
put_number(task, 'max_attempts', task.max_attempts + 1)
drop(task, 'progress')
change_status(task, 'pending')
tell(task, 'released', problem)
enqueue(task)
save(task)
give(task)
return 'pending'
