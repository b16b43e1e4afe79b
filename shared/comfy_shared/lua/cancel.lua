-- cancel: a pending or running task is canceled for good in this step; an agent that runs it is told and can no longer report.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses batch_prefix
-- ARGV: id retention_ms
-- USES: state time later record usage place memory apart wake move lease reuse heir
-- Replies: {canceled} | {already, status} | {unknown} | {damaged}
if redis.call('EXISTS', task_prefix .. id) == 0 then return {'unknown'} end
local task = open(id)
if not task then return {'damaged'} end
if task.status == 'pending' and task.joined then
  redis.pcall('SREM', followers_prefix .. task.joined, id)
elseif task.status == 'pending' then
  dequeue(task)
elseif task.status == 'running' then
  end_lease(task)
  charge(task.owner, now - (task.started_at or now))
  redis.call('PUBLISH', agent_prefix .. task.agent, 'cancel ' .. id .. ' ' .. task.attempt)
else
  return {'already', task.status}
end
close(task, 'canceled', '{}', retention_ms)
local heir = task.reuse and pass_on(task.id, task.reuse, retention_ms)
if heir then give(heir) end
return {'canceled'}
