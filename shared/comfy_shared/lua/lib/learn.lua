-- NEEDS: memory_prefix stats_prefix servers_prefix
-- What a finished prompt teaches: moving averages of the lane's run and of a run with its load, and how many lanes stay in memory.
local function average(key, field, value)
  local before = tonumber(redis.call('HGET', key, field))
  redis.call('HSET', key, field, before and before * 0.8 + value * 0.2 or value)
  redis.call('EXPIRE', key, 2592000)
end

local function learn(agent, lane, place, gpu_ms, cold)
  if cold == '' or gpu_ms <= 0 then return end
  average(stats_prefix .. lane, cold == '1' and 'cold' or 'run', gpu_ms)
  if cold == '0' then average(stats_prefix .. 'all', 'run', gpu_ms) end
  local held, capacity, paid = residents(agent)
  local key = memory_prefix .. agent
  if #held == 0 then return end
  if cold == '0' and place > capacity then capacity = place end
  if cold == '1' and place > 1 and place <= capacity then capacity = place - 1 end
  redis.call('HSET', key, 'paid', paid + gpu_ms, 'capacity', capacity)
  for i, other in ipairs(held) do redis.call(i <= capacity and 'SADD' or 'SREM', servers_prefix .. other, agent) end
end
