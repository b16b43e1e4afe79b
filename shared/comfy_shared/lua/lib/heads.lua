-- NEEDS: lanes lane_prefix turn_prefix owners_prefix task_prefix working
-- The tasks that are next in a lane, as far as this agent may take them: one of each owner that may run more, of 32 owners at most.
local function head_of_record(id, lane, all_of_it)  -- or nil when it is broken
  if all_of_it then
    local task = open_whole(id)
    if not task or task.status ~= 'pending' or task.lane ~= lane then return nil end
    local head = {id = id, owner = task.owner, priority = task.priority, created = tonumber(task.created_at), order = tonumber(task.order), task = task}
    return head, task.avoid, task.avoid_until, task.more_vram
  end
  local fields = redis.pcall('HMGET', task_prefix .. id, 'status', 'lane', 'owner', 'priority', 'created_at', 'order', 'avoid', 'avoid_until', 'more_vram')
  if fields.err or fields[1] ~= 'pending' or fields[2] ~= lane or not fields[3] then return nil end
  if not (whole(fields[4]) and whole(fields[5]) and whole(fields[6])) then return nil end
  local head = {id = id, owner = fields[3], priority = tonumber(fields[4]), created = tonumber(fields[5]), order = tonumber(fields[6])}
  return head, fields[7], fields[8], fields[9]
end

local function first_of(ids, lane, agent, owner, all_of_it)
  for _, id in ipairs(ids) do
    local head, avoid, avoid_until, more_vram = head_of_record(id, lane, all_of_it)
    if not head then
      keep_counts()
      set_aside(id, lane, owner or redis.call('HKEYS', owners_prefix .. lane)[1] or '')
    elseif not apart(agent, lane, avoid, avoid_until, more_vram) then
      return head
    end
  end
end

local function next_of(key, lane, agent, owner, all_of_it)  -- nearly always the very first; else one of the first 16
  local known = not owner and head_of[lane]
  return first_of(known and {known} or redis.pcall('ZRANGE', key, '0', '0'), lane, agent, owner, all_of_it)
    or first_of(redis.pcall('ZRANGE', key, '0', '15'), lane, agent, owner)
end

local function may_run_more(owner, running_limit)
  return running_limit == 0 or counted(working, owner) < running_limit
end

local function heads_of(lane, agent, running_limit, only)  -- `only`: there is no other lane, so what is found here is taken, and read as a whole
  local owners = 1
  if not single[lane] then
    keep_counts()
    owners = tonumber(redis.pcall('HLEN', owners_prefix .. lane)) or 0
    single[lane] = owners <= 1
  end
  if single[lane] then
    local head = next_of(lane_prefix .. lane, lane, agent, nil, only)
    return head and may_run_more(head.owner, running_limit) and {head} or {}
  end
  local found = {}
  for _, owner in ipairs(owners <= 32 and redis.call('HKEYS', owners_prefix .. lane) or redis.call('HRANDFIELD', owners_prefix .. lane, 32)) do
    local head = may_run_more(owner, running_limit) and next_of(turn_prefix .. lane .. ':' .. owner, lane, agent, owner)
    if head then found[#found + 1] = head end
  end
  return found
end
