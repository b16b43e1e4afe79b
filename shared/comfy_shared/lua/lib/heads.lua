-- NEEDS: lanes lane_prefix turn_prefix owners_prefix task_prefix working
-- The tasks that are next in a lane, as far as this agent may take them: one of each owner that may run more, of 32 owners at most.
local function first_of(key, last, lane, agent, owner)
  for _, id in ipairs(redis.pcall('ZRANGE', key, '0', last)) do
    local fields = redis.pcall('HMGET', task_prefix .. id, 'status', 'lane', 'owner', 'priority', 'created_at', 'order', 'avoid', 'avoid_until', 'more_vram')
    local broken = fields.err or fields[1] ~= 'pending' or fields[2] ~= lane or not fields[3]
    if broken or not (whole(fields[4]) and whole(fields[5]) and whole(fields[6])) then
      set_aside(id, lane, owner or redis.call('HKEYS', owners_prefix .. lane)[1] or '')
    elseif not apart(agent, lane, fields[7], fields[8], fields[9]) then
      return {id = id, owner = fields[3], priority = tonumber(fields[4]), created = tonumber(fields[5]), order = tonumber(fields[6])}
    end
  end
end

local function next_of(key, lane, agent, owner)  -- nearly always the very first; else one of the first 16
  return first_of(key, '0', lane, agent, owner) or first_of(key, '15', lane, agent, owner)
end

local function may_run_more(owner, running_limit)
  return running_limit == 0 or (tonumber(redis.call('HGET', working, owner)) or 0) < running_limit
end

local function heads_of(lane, agent, running_limit)
  local owners = tonumber(redis.pcall('HLEN', owners_prefix .. lane)) or 0
  if owners <= 1 then
    local head = next_of(lane_prefix .. lane, lane, agent)
    return head and may_run_more(head.owner, running_limit) and {head} or {}
  end
  local found = {}
  for _, owner in ipairs(owners <= 32 and redis.call('HKEYS', owners_prefix .. lane) or redis.call('HRANDFIELD', owners_prefix .. lane, 32)) do
    local head = may_run_more(owner, running_limit) and next_of(turn_prefix .. lane .. ':' .. owner, lane, agent, owner)
    if head then found[#found + 1] = head end
  end
  return found
end
