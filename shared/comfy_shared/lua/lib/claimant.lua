-- NEEDS: agent_prefix draining idle verdicts_prefix needs_prefix lanes assigned_prefix
-- The agent that claims, and what it finds. What only its own calls change is read once for all of them that share a command.
local claimants = {}
local function claimant_of(agent)
  local claimant = claimants[agent]
  if not claimant then
    claimant = {
      agent = agent, session = redis.pcall('HGET', agent_prefix .. agent, 'session'), draining = redis.call('SISMEMBER', draining, agent) == 1,
      verdict_key = verdicts_prefix .. agent, verdicts = {}, told = cjson.encode({agent = agent}), unknown = {}, most = 0,
    }
    claimant.held, claimant.capacity, claimant.paid = residents(agent)
    claimants[agent] = claimant
  end
  return claimant
end

local function idles(claimant, does)
  if claimant.idles == does then return end
  if does then
    redis.call('ZADD', idle, now_text, claimant.agent)
    nobody_idles = false
  else
    redis.call('ZREM', idle, claimant.agent)
    nobody_idles = nil
  end
  claimant.idles = does
end

local function keep_verdicts(claimant, verdicts)  -- rare
  for lane, verdict in pairs(verdicts) do
    if type(redis.pcall('HSET', claimant.verdict_key, lane, verdict)) == 'table' then
      redis.call('DEL', claimant.verdict_key)
      redis.call('HSET', claimant.verdict_key, lane, verdict)
    end
    redis.call('EXPIRE', claimant.verdict_key, '86400')
    claimant.verdicts[lane] = verdict
    if verdict == '0' and redis.call('ZSCORE', lanes, lane) then wake(lane) end  -- the wake-up was meant for an agent that can
  end
end

local function can_serve(claimant, lane)
  local verdict = claimant.verdicts[lane]
  if not verdict then
    verdict = redis.pcall('HGET', claimant.verdict_key, lane)
    if type(verdict) == 'table' then
      redis.call('DEL', claimant.verdict_key)
      verdict = false
    end
    claimant.verdicts[lane] = verdict
    if not verdict then
      local unknown, needs = claimant.unknown, redis.pcall('GET', needs_prefix .. lane)
      unknown[#unknown + 1] = lane
      unknown[#unknown + 1] = type(needs) == 'string' and needs or ''
    end
  end
  return verdict == '1'
end

local function look_at(claimant, found, lane, only)
  if not can_serve(claimant, lane) then return end
  local heads = heads_of(lane, claimant.agent, claimant.most, only)
  if #heads > 0 then found[#found + 1] = {lane = lane, heads = heads, place = place_in(claimant.held, lane)} end
end

local function given_early(claimant)  -- rare: what was bound to this agent when it came; what it cannot serve after all goes to another
  for _, id in ipairs(redis.pcall('ZRANGE', assigned_prefix .. claimant.agent, 0, 63)) do
    local task = open(id)
    if not task or task.status ~= 'pending' then
      redis.call('ZREM', assigned_prefix .. claimant.agent, id)
    elseif can_serve(claimant, task.lane) then
      if may_run_more(task.owner, claimant.most) then
        return {lane = task.lane, place = place_in(claimant.held, task.lane)}, {id = id, owner = task.owner}
      end
    elseif #claimant.unknown == 1 then
      assign(task)
    else
      return
    end
  end
end

local function look_further(claimant, found, some)  -- rare: into more than 64 lanes
  local seen = {}
  local function look(lane)
    if not seen[lane] then look_at(claimant, found, lane) end
    seen[lane] = true
  end
  for i = 1, math.min(claimant.capacity, #claimant.held) do  -- what it has in memory may be further behind
    if redis.call('ZSCORE', lanes, claimant.held[i]) then look(claimant.held[i]) end
  end
  for _, lane in ipairs(some) do look(lane) end
  local from = 64
  while #some == 64 and #found == 0 and #claimant.unknown == 1 do  -- more of them only when the agent can serve none of these
    some = redis.call('ZRANGE', lanes, from, from + 63)
    for _, lane in ipairs(some) do look(lane) end
    from = from + 64
  end
end

local function next_task(claimant, ageing_ms)
  if EARLY[how] then return given_early(claimant) end
  local found = {}
  local some = redis.call('ZRANGE', lanes, '0', '63')
  if #some == 64 then
    look_further(claimant, found, some)
  else
    for _, lane in ipairs(some) do look_at(claimant, found, lane, #some == 1) end
  end
  return choose(found, claimant.capacity, claimant.paid, ageing_ms)
end
