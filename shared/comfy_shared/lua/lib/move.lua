-- NEEDS: task_prefix story_prefix leases held_prefix index_prefix finished working
-- Status changes that several transitions share.
local function change_status(id, from, to, created)
  redis.call('HSET', task_prefix .. id, 'status', to)
  redis.call('ZREM', index_prefix .. 'status:' .. from, id)
  redis.call('ZADD', index_prefix .. 'status:' .. to, created, id)
end

local function end_lease(id, agent, owner)  -- first the lease: that needs no memory (see settle)
  if redis.call('ZREM', leases, id) == 1 and owner then count(working, owner, -1) end
  redis.pcall('SREM', held_prefix .. agent, id)
end

local function finish(id, from, to, created, kind, attempt, data, retention_ms)
  change_status(id, from, to, created)
  redis.call('HSET', task_prefix .. id, 'finished_at', now)
  redis.call('ZADD', finished, now, id)
  tell(id, kind, attempt, data)
  -- The purge removes both at the end of the retention; the TTL is for the case that no balancer is left to do it.
  local last_resort = tonumber(retention_ms) + 86400000
  redis.call('PEXPIRE', task_prefix .. id, last_resort)
  redis.call('PEXPIRE', story_prefix .. id, last_resort)
end
