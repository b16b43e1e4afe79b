-- NEEDS: agents agent_prefix verdicts_prefix idle lane_prefix task_prefix servers_prefix assigned_prefix held_prefix draining rotation
-- Tells an agent that there is work. By lane or in order: one idle agent that is alive and not known to be unable to serve the lane; one that
-- has it in memory, else, when that is worth a load, the one that has been idle longest. Looks at 64 at most.
-- The policies that bind early, kept for comparison, choose the agent when the task comes, whether it is idle or not.
local EARLY = {['round-robin'] = true, ['least-loaded'] = true, ['weighted-round-robin'] = true}
local how = policy_name or 'lane'

local nobody_idles  -- once that was asked
local function rouse(agent)  -- true when it idled and hears of it
  if redis.call('ZREM', idle, agent) == 0 then return false end
  nobody_idles = nil
  if not alive(agent) then return false end
  redis.call('PUBLISH', agent_prefix .. agent, 'wake')
  return true
end

local function wake_one(lane, whatever_it_costs, task)  -- rare: `wake` when somebody idles
  local head = head_of[lane] or redis.pcall('ZRANGE', lane_prefix .. lane, '0', '0')[1]
  local fields = {}
  if task and head == task.id then
    fields[1], fields[2], fields[3] = task.avoid, task.avoid_until, task.more_vram
  elseif head then
    fields = redis.pcall('HMGET', task_prefix .. head, 'avoid', 'avoid_until', 'more_vram')
  end
  local kept = {}  -- agents that the head is kept from
  local function may(agent)
    if redis.pcall('HGET', verdicts_prefix .. agent, lane) == '0' then return false end
    if fields[1] or fields[3] then
      kept[agent] = apart(agent, lane, fields[1], fields[2], fields[3])
    end
    return not kept[agent]
  end
  for _, agent in ipairs(redis.pcall('SRANDMEMBER', servers_prefix .. lane, 64)) do
    if may(agent) and rouse(agent) then return true end
  end
  local number = tonumber(redis.pcall('ZCARD', lane_prefix .. lane)) or 0
  if how ~= 'fifo' and not whatever_it_costs and not worth_a_load(lane, number) then return false end
  for _, agent in ipairs(redis.call('ZRANGE', idle, 0, 63)) do
    if may(agent) and rouse(agent) then return true end
  end
  if number > 1 then  -- the next of the lane may be for them
    for agent, is in pairs(kept) do
      if is and rouse(agent) then return true end
    end
  end
  return false
end

local function wake(lane, whatever_it_costs, task)  -- `task`, if given, has just come into the lane
  if EARLY[how] then return false end
  if nobody_idles == nil then nobody_idles = redis.call('ZCARD', idle) == 0 end
  return not nobody_idles and wake_one(lane, whatever_it_costs, task)
end

local function assign(task)  -- rare: binds it early
  local function load_of(agent)
    return (tonumber(redis.pcall('ZCARD', assigned_prefix .. agent)) or 0) + (tonumber(redis.pcall('HLEN', held_prefix .. agent)) or 0)
  end

  local function chosen_early(task)
    local lane = task.lane
    local able = {}
    for _, agent in ipairs(redis.call('ZRANGEBYSCORE', agents, now, '+inf')) do
      if redis.pcall('HGET', verdicts_prefix .. agent, lane) ~= '0' and redis.call('SISMEMBER', draining, agent) == 0
        and not apart(agent, lane, task.avoid, task.avoid_until, task.more_vram) then able[#able + 1] = agent end
    end
    if #able == 0 then return nil end
    table.sort(able)
    local turn = redis.call('INCR', rotation)
    if how == 'round-robin' then return able[turn % #able + 1] end
    local best, most
    for i = 1, #able do
      local agent = able[(turn + i) % #able + 1]
      local weight = how == 'least-loaded' and 1 or math.max(1, tonumber(redis.pcall('HGET', agent_prefix .. agent, 'vram_free')) or 1)
      local worth = weight / (1 + load_of(agent))
      if not most or worth > most then best, most = agent, worth end
    end
    return best
  end

  if task.assigned then redis.call('ZREM', assigned_prefix .. task.assigned, task.id) end
  local agent = chosen_early(task)
  if not agent then
    drop(task, 'assigned')
    save(task)
    return false
  end
  put(task, 'assigned', agent)
  save(task)
  redis.call('ZADD', assigned_prefix .. agent, task.order, task.id)
  rouse(agent)
  return true
end

local function give(task)  -- it waits (again): under every policy, whoever is to take it hears of it
  if EARLY[how] then return assign(task) end
  return wake(task.lane, false, task)
end
