-- claim: give the agent the next task that it can run; the prompt id of the attempt is recorded before anything is sent anywhere.
-- KEYS: clock queue lanes lane_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining damaged memory_prefix servers_prefix stats_prefix policy
-- ARGV: agent session prompt_id lease_ms verdicts
-- USES: time story place memory wake move sound quarantine choose
-- Input: `verdicts` is msgpack: lane → '1' the agent can serve it, '0' it cannot (what it found out about lanes from the reply before).
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
  if sound(id) then
    local held = redis.call('HMGET', task_prefix .. id, 'status', 'agent', 'session', 'prompt_id')
    if held[1] == 'running' and held[2] == agent and held[3] == session and held[4] == prompt_id then
      return {'claimed', unpack(redis.call('HGETALL', task_prefix .. id))}
    end
  end
end

local function waits(id, lane)  -- a broken record must not block the lane for ever
  if sound(id) then
    local fields = redis.call('HMGET', task_prefix .. id, 'status', 'lane')
    if fields[1] == 'pending' and fields[2] == lane then return true end
  end
  dequeue(id, lane)
  quarantine(id)
  return false
end

local alone = redis.call('ZCOUNT', agents, now, '+inf') <= 1
local function head_of(lane)
  for _, id in ipairs(redis.pcall('ZRANGE', lane_prefix .. lane, 0, 15)) do
    if waits(id, lane) then
      local avoid = redis.call('HMGET', task_prefix .. id, 'avoid', 'avoid_until')
      if alone or avoid[1] ~= agent or now >= tonumber(avoid[2]) then return id end
    end
  end
end

local held, capacity, paid = residents(agent)
local unknown = {'lanes'}
local entries, seen = {}, {}
local function look_at(lane)
  local order = not seen[lane] and redis.call('ZSCORE', lanes, lane)
  seen[lane] = true
  if not order then return end
  local verdict = redis.call('HGET', verdict_key, lane)
  if not verdict then
    unknown[#unknown + 1] = lane
    local needs = redis.pcall('GET', needs_prefix .. lane)
    unknown[#unknown + 1] = type(needs) == 'string' and needs or ''
  elseif verdict == '1' then
    local head = head_of(lane)
    if head then
      entries[#entries + 1] = {
        lane = lane, head = head, place = place_in(held, lane), order = tonumber(redis.call('ZSCORE', lane_prefix .. lane, head)),
        waiting = redis.call('ZCARD', lane_prefix .. lane),
      }
    end
  end
end
for i = 1, math.min(capacity, #held) do look_at(held[i]) end
local from = 0
repeat  -- the lanes whose heads are next; more of them only when the agent can serve none of these
  local some = redis.call('ZRANGE', lanes, from, from + 63)
  for _, lane in ipairs(some) do look_at(lane) end
  from = from + 64
until #entries > 0 or #unknown > 1 or #some < 64

if #unknown > 1 then return unknown end
local entry
if redis.call('GET', policy) == 'fifo' then entry = first_in_first_out(entries) else entry = by_lane(entries, capacity, paid) end
if not entry then
  redis.call('ZADD', idle, now, agent)
  return {'empty'}
end

local chosen = entry.head
local key = task_prefix .. chosen
local fields = redis.call('HMGET', key, 'lane', 'created_at')
dequeue(chosen, fields[1])
local attempt = redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'agent', agent, 'session', session, 'prompt_id', prompt_id, 'started_at', now)
redis.call('HSET', key, 'memory_place', entry.place)
redis.call('HDEL', key, 'progress')
remember(agent, entry.lane, held, capacity, entry.place == 0 or entry.place > capacity)
change_status(chosen, 'pending', 'running', fields[2])
redis.call('ZADD', leases, now + tonumber(lease_ms), chosen)
redis.call('SADD', held_key, chosen)
tell(chosen, 'claimed', attempt, cjson.encode({agent = agent}))
return {'claimed', unpack(redis.call('HGETALL', key))}
