-- NEEDS: memory_prefix servers_prefix stats_prefix
-- What an agent's instance holds in memory, as observed: its lanes, the last used first, of which `capacity` stay loaded; and what a lane
-- costs, measured: a run, and the load before it. `servers` of a lane are the agents that hold it.
local function residents(agent)
  local fields = redis.pcall('HMGET', memory_prefix .. agent, 'lanes', 'capacity', 'paid')
  local held = {}
  local known = type(fields[1]) == 'string' and fields[1] or ''
  if known ~= '' and not known:find('%s') then
    held[1] = known
  else
    for lane in known:gmatch('%S+') do held[#held + 1] = lane end
  end
  return held, tonumber(fields[2]) or 1, tonumber(fields[3]) or 0
end

local function place_in(held, lane)
  for place, other in ipairs(held) do
    if other == lane then return place end
  end
  return 0
end

local function remember(agent, lane, held, capacity, cold)
  local place = place_in(held, lane)
  if place == 1 and not cold then return end  -- as before; the heartbeat prolongs it
  if place > 0 then table.remove(held, place) end
  table.insert(held, 1, lane)
  while #held > 8 do table.remove(held) end
  local key = memory_prefix .. agent
  redis.call('HSET', key, 'lanes', table.concat(held, ' '), 'capacity', capacity)
  if cold then redis.call('HSET', key, 'paid', 0) end
  redis.call('EXPIRE', key, 86400)
  redis.call('SADD', servers_prefix .. lane, agent)
  redis.call('EXPIRE', servers_prefix .. lane, 86400)
  for i = capacity + 1, #held do redis.call('SREM', servers_prefix .. held[i], agent) end
end

local function forget(agent)
  for _, lane in ipairs((residents(agent))) do redis.pcall('SREM', servers_prefix .. lane, agent) end
  redis.call('DEL', memory_prefix .. agent)
end

local function costs(lane)  -- ms of a run and of the load before it; a lane that never ran costs no load as far as is known
  local fields = redis.pcall('HMGET', stats_prefix .. lane, 'run', 'cold')
  local run, cold = tonumber(fields[1]), tonumber(fields[2])
  if cold and not run then return cold * 0.4, cold * 0.6 end
  return run or 1000, cold and math.max(0, cold - run) or 0
end

local function worth_a_load(lane, number)  -- nobody has it in memory, or those who have it are behind by more than a load takes
  local servers = redis.call('SCARD', servers_prefix .. lane)
  local run, load = costs(lane)
  return servers == 0 or number * run / servers > load, servers
end
