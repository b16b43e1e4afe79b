-- NEEDS: agents agent_prefix verdicts_prefix idle lane_prefix servers_prefix policy
-- Wakes one idle agent that is alive and not known to be unable to serve the lane: one that has it in memory, else, when that is worth a
-- load, the one that has been idle longest. Looks at 64 at most.
local function rouse(agent)
  local alive_until = redis.call('ZSCORE', agents, agent)
  redis.call('ZREM', idle, agent)
  if not alive_until or tonumber(alive_until) < now then return false end
  redis.call('PUBLISH', agent_prefix .. agent, 'wake')
  return true
end

local function wake(lane, whatever_it_costs)
  for _, agent in ipairs(redis.pcall('SRANDMEMBER', servers_prefix .. lane, 64)) do
    if redis.call('ZSCORE', idle, agent) and redis.pcall('HGET', verdicts_prefix .. agent, lane) ~= '0' and rouse(agent) then
      return true
    end
  end
  local waiting = tonumber(redis.pcall('ZCARD', lane_prefix .. lane)) or 0
  if redis.call('GET', policy) ~= 'fifo' and not whatever_it_costs and not worth_a_load(lane, waiting) then return false end
  for _, agent in ipairs(redis.call('ZRANGE', idle, 0, 63)) do
    if redis.pcall('HGET', verdicts_prefix .. agent, lane) ~= '0' and rouse(agent) then return true end
  end
  return false
end
