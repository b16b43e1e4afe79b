-- settle: end a lease with a result, an error or the outputs. Only the attempt that holds it may; the same call again after a lost reply is ok again.
-- KEYS: clock task_prefix story_prefix events leases held_prefix working usage index_prefix finished batch_prefix memory_prefix servers_prefix stats_prefix reuse_prefix followers_prefix output_uses
-- ARGV: id attempt session outcome problem outputs told progress shown gpu_ms cold retention_ms
-- USES: offset time later record usage memory move lease reuse learn
-- Input: `gpu_ms` is how long the prompt ran, `cold` 1 when it had to load its models, 0 when not, empty when that is not known; `shown` is packed bytes for ComfyUI clients, or empty; outcome is complete or fail; `problem` is JSON of TaskError; `outputs` is JSON of the list; `told` is msgpack: the data of one output event each.
-- Replies: the task's status now | stale
local task, reply = ending(id, attempt, session, outcome)
if not task then return reply end
-- First, because it needs no memory: a Redis at its limit refuses only the first write of a step, and a running task must be able to end.
end_lease(task)
put(task, 'settled', attempt .. ':' .. outcome)
local ran = tonumber(gpu_ms) or 0
charge(task.owner, ran > 0 and ran or now - (task.started_at or now))
if outcome == 'fail' then
  put(task, 'error', problem)
  finish(task, 'failed', problem, retention_ms)
  return 'failed'
end
put(task, 'outputs', outputs)
if progress ~= '' then put(task, 'progress', progress) end
if shown ~= '' then put(task, 'shown', shown) end
learn(task.agent, task.lane, task.memory_place or 0, ran, cold)
if task.attempt > 1 then drop(task, 'error') end  -- of an earlier attempt
local output_lines = cmsgpack.unpack(told)
for _, data in ipairs(output_lines) do tell(task, 'output', data) end
finish(task, 'completed', cjson.encode({agent = task.agent}), retention_ms, outputs, output_lines)
return 'completed'
