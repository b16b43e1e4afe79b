-- sweep: put back the tasks whose lease ran out, forget agents that are long gone, wake idle agents while tasks wait.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses swept damaged batch_prefix
-- ARGV: lease_ms avoid_ms retention_ms agent_retention_ms
-- USES: state time later record usage place memory apart wake move lease reuse again heir quarantine
-- Replies: {ms until the next lease runs out or -1, id, status…}
local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)
local last = tonumber(redis.call('GET', swept) or now) or now
redis.call('SET', swept, now)
local reply = {-1}
if now - last > tonumber(lease_ms) / 2 then
  -- Nobody swept for long: Redis or all balancers were away. The holders could not renew either: they get half a lease to do it.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now + lease_ms / 2)) do
    redis.call('ZADD', leases, now + lease_ms / 2, id)
  end
  expired = {}
end
for _, id in ipairs(expired) do
  local task = open(id)
  if not task or (task.status == 'running' and not task.agent) then
    local known = redis.pcall('HMGET', task_prefix .. id, 'agent', 'owner', 'prompt_id')
    end_lease({id = id, agent = known[1] or '', owner = known[2] or '', prompt_id = known[3] or ''})
    quarantine(id)
  elseif task.status ~= 'running' then
    redis.call('ZREM', leases, id)
  else
    local problem = cjson.encode({code = 'agent_lost', message = 'The agent stopped renewing its lease.', details = {agent = task.agent}})
    end_lease(task)
    reply[#reply + 1] = id
    reply[#reply + 1] = try_again(task, 'agent_lost', problem, avoid_ms, retention_ms)
  end
end

for _, agent in ipairs(redis.call('ZRANGEBYSCORE', agents, '-inf', now)) do
  if redis.call('EXISTS', memory_prefix .. agent) == 1 then forget(agent) end  -- nobody serves its lanes now
end
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', agents, '-inf', now - tonumber(agent_retention_ms))) do
  redis.call('DEL', agent_prefix .. agent, verdicts_prefix .. agent)
  redis.call('ZREM', agents, agent)
  redis.call('ZREM', idle, agent)
  redis.call('SREM', draining, agent)
  redis.call('ZREM', vram, agent)
end
if EARLY[how] then  -- what is bound to nobody, or to one that is gone or drains, is bound anew
  for _, id in ipairs(redis.call('ZRANGE', queue, 0, 499)) do
    local to = redis.pcall('HGET', task_prefix .. id, 'assigned')
    local bound = type(to) == 'string' and alive(to) and redis.call('SISMEMBER', draining, to) == 0
    local task = not bound and open(id)
    if task then assign(task) end
  end
elseif redis.call('ZCARD', idle) > 0 then
  for _, lane in ipairs(redis.call('ZRANGE', lanes, 0, 15)) do
    for _ = 1, math.min(tonumber(redis.pcall('ZCARD', lane_prefix .. lane)) or 0, 16) do
      if not wake(lane, true) then break end
    end
  end
end
local next_lease = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
if next_lease[2] then reply[1] = math.max(0, tonumber(next_lease[2]) - now) end
return reply
