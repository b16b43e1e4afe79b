-- claim: give the agent the next task that it can run; the prompt id of the attempt is recorded before anything is sent anywhere.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining damaged memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation
-- ARGV: agent session prompt_id lease_ms verdicts running_limit ageing_ms
-- USES: time story usage place memory apart wake move sound quarantine heads choose
-- Input: `verdicts` is msgpack: lane → '1' the agent can serve it, '0' it cannot (what it found out about lanes from the reply before); `running_limit` of tasks of one owner, 0 for none.
-- Replies: {claimed, field, value…} | {lanes, lane, needs…}: judge these and call again | {empty} | {draining} | {unregistered}
local record = agent_prefix .. agent
if redis.pcall('HGET', record, 'session') ~= session then return {'unregistered'} end
local verdict_key, held_key = verdicts_prefix .. agent, held_prefix .. agent
-- Broken bytes under the agent's own keys must not keep it from working.
if redis.call('TYPE', verdict_key)['ok'] ~= 'hash' then redis.call('DEL', verdict_key) end
if redis.call('TYPE', held_key)['ok'] ~= 'set' then redis.call('DEL', held_key) end
for lane, verdict in pairs(cmsgpack.unpack(verdicts)) do
  redis.call('HSET', verdict_key, lane, verdict)
  redis.call('EXPIRE', verdict_key, 86400)
  if verdict == '0' and redis.call('ZSCORE', lanes, lane) then wake(lane) end  -- the wake-up was meant for an agent that can
end
redis.call('ZREM', idle, agent)
if redis.call('SISMEMBER', draining, agent) == 1 then return {'draining'} end

-- The same call again after a lost reply: it has its task already.
for _, id in ipairs(redis.call('SMEMBERS', held_key)) do
  local held = redis.pcall('HMGET', task_prefix .. id, 'status', 'agent', 'session', 'prompt_id')
  if held[1] == 'running' and held[2] == agent and held[3] == session and held[4] == prompt_id and sound(id) then
    return {'claimed', unpack(redis.call('HGETALL', task_prefix .. id))}
  end
end

local held, capacity, paid = residents(agent)
local most, ageing = tonumber(running_limit), tonumber(ageing_ms)
local unknown = {'lanes'}
local found, seen = {}, {}

local function can_serve(lane)
  local verdict = redis.call('HGET', verdict_key, lane)
  if not verdict then
    unknown[#unknown + 1] = lane
    local needs = redis.pcall('GET', needs_prefix .. lane)
    unknown[#unknown + 1] = type(needs) == 'string' and needs or ''
  end
  return verdict == '1'
end

local function look_at(lane)
  if seen[lane] or not redis.call('ZSCORE', lanes, lane) then return end
  seen[lane] = true
  if can_serve(lane) then
    local heads = heads_of(lane, agent, most)
    if #heads > 0 then
      found[#found + 1] = {lane = lane, heads = heads, place = place_in(held, lane), waiting = redis.call('ZCARD', lane_prefix .. lane)}
    end
  end
end

local function given_early()  -- what was bound to this agent when it came; what it cannot serve after all goes to another
  for _, id in ipairs(redis.pcall('ZRANGE', assigned_prefix .. agent, 0, 63)) do
    local fields = redis.pcall('HMGET', task_prefix .. id, 'status', 'lane', 'owner', 'order')
    local lane, owner = fields[2], fields[3]
    if fields[1] ~= 'pending' or not lane or not owner or not sound(id) then
      redis.call('ZREM', assigned_prefix .. agent, id)
    elseif can_serve(lane) then
      if may_run_more(owner, most) then return {lane = lane, place = place_in(held, lane)}, {id = id, owner = owner} end
    elseif #unknown == 1 then
      assign(id, lane)
    else
      return nil
    end
  end
end

local function next_task()
  found, seen = {}, {}
  if EARLY[how] then return given_early() end
  for i = 1, math.min(capacity, #held) do look_at(held[i]) end
  local from = 0
  repeat  -- the lanes whose heads are next; more of them only when the agent can serve none of these
    local some = redis.call('ZRANGE', lanes, from, from + 63)
    for _, lane in ipairs(some) do look_at(lane) end
    from = from + 64
  until #found > 0 or #unknown > 1 or #some < 64
  if how == 'fifo' then return in_order(found) end
  return by_lane(found, capacity, paid, ageing)
end

local entry, head = next_task()
while entry and not sound(head.id) do  -- a broken record must not block the lane for ever
  set_aside(head.id, entry.lane, head.owner)
  entry, head = next_task()
end
if #unknown > 1 then return unknown end
if not entry then
  redis.call('ZADD', idle, now, agent)
  return {'empty'}
end

local chosen = head.id
local key = task_prefix .. chosen
local fields = redis.call('HMGET', key, 'lane', 'created_at', 'owner')
dequeue(chosen, fields[1], fields[3])
local attempt = redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'agent', agent, 'session', session, 'prompt_id', prompt_id, 'started_at', now, 'memory_place', entry.place)
redis.call('HDEL', key, 'progress')
remember(agent, entry.lane, held, capacity, entry.place == 0 or entry.place > capacity)
change_status(chosen, 'pending', 'running', fields[2])
redis.call('ZADD', leases, now + tonumber(lease_ms), chosen)
count(working, fields[3], 1)
redis.call('SADD', held_key, chosen)
tell(chosen, 'claimed', attempt, cjson.encode({agent = agent}))
return {'claimed', unpack(redis.call('HGETALL', key))}
