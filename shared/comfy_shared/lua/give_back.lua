-- give_back: end a lease without a result. Only the attempt that holds it may; the same call again after a lost reply is ok again.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses batch_prefix
-- ARGV: id attempt session outcome code problem avoid_ms retention_ms
-- USES: state time later record usage place memory apart wake move lease reuse again
-- Input: outcome is retry (another attempt may do) or release (given back unrun); `problem` is JSON of TaskError, `code` its word.
-- Replies: the task's status now | stale
local task, reply = ending(id, attempt, session, outcome)
if not task then return reply end
if outcome == 'retry' and (code == 'instance_lost' or code == 'out_of_memory') then forget(task.agent) end  -- what it had loaded is gone
-- First, because it needs no memory (see settle).
end_lease(task)
put(task, 'settled', attempt .. ':' .. outcome)
if outcome == 'retry' then
  charge(task.owner, now - (task.started_at or now))
  return try_again(task, code, problem, avoid_ms, retention_ms)
end
-- release: the attempt's number is spent (it is the fence), so the limit moves instead.
put_number(task, 'max_attempts', task.max_attempts + 1)
drop(task, 'progress')
change_status(task, 'pending')
tell(task, 'released', problem)
put_back(task)
save(task)
give(task)
return 'pending'
