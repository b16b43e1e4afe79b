-- NEEDS: agents agent_prefix verdicts_prefix idle lane_prefix task_prefix servers_prefix policy
-- Wakes one idle agent that is alive and not known to be unable to serve the lane: one that has it in memory, else, when that is worth a
-- load, the one that has been idle longest. Looks at 64 at most.
local function rouse(agent)
  local alive_until = redis.call('ZSCORE', agents, agent)
  redis.call('ZREM', idle, agent)
  if not alive_until or tonumber(alive_until) < now then return false end
  redis.call('PUBLISH', agent_prefix .. agent, 'wake')
  return true
end

local function avoided(lane)  -- the agent that just failed the head of the lane and is not given it yet, while there are others
  local head = redis.pcall('ZRANGE', lane_prefix .. lane, 0, 0)[1]
  local fields = head and redis.pcall('HMGET', task_prefix .. head, 'avoid', 'avoid_until') or {}
  if not fields[1] or now >= (tonumber(fields[2]) or 0) or redis.call('ZCOUNT', agents, now, '+inf') <= 1 then return nil end
  return fields[1]
end

local function wake(lane, whatever_it_costs)
  local last = avoided(lane)
  local function may(agent)
    return agent ~= last and redis.pcall('HGET', verdicts_prefix .. agent, lane) ~= '0'
  end
  for _, agent in ipairs(redis.pcall('SRANDMEMBER', servers_prefix .. lane, 64)) do
    if redis.call('ZSCORE', idle, agent) and may(agent) and rouse(agent) then return true end
  end
  local waiting = tonumber(redis.pcall('ZCARD', lane_prefix .. lane)) or 0
  if redis.call('GET', policy) ~= 'fifo' and not whatever_it_costs and not worth_a_load(lane, waiting) then return false end
  for _, agent in ipairs(redis.call('ZRANGE', idle, 0, 63)) do
    if may(agent) and rouse(agent) then return true end
  end
  if last and waiting > 1 and redis.call('ZSCORE', idle, last) then return rouse(last) end
  return false
end
