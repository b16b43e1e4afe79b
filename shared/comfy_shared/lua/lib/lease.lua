-- NEEDS: leases held_prefix working
-- The end of a lease, which only the attempt that holds it may ask for.
local function end_lease(task)  -- first the lease: that needs no memory (see settle)
  if redis.call('ZREM', leases, task.id) == 1 then count(working, task.owner, -1) end
  redis.pcall('HDEL', held_prefix .. task.agent, task.prompt_id)
end

local function ending(id, attempt, session, outcome)  -- the task whose lease this attempt may end so; else nil and the reply
  local task = open(id)
  if not task or tostring(task.attempt) ~= attempt or task.session ~= session then return nil, 'stale' end
  if task.settled == attempt .. ':' .. outcome then return nil, task.status end
  if task.status ~= 'running' then return nil, 'stale' end
  return task
end
