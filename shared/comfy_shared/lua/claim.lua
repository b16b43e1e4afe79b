-- claim: give the agent the next task that it can run; the prompt id of the attempt is recorded before anything is sent anywhere.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses damaged batch_prefix
-- ARGV: agent session prompt_id lease_ms verdicts running_limit ageing_ms
-- USES: time later record usage place memory apart wake move reuse heir quarantine heads choose
-- Input: `verdicts` is msgpack: lane → '1' the agent can serve it, '0' it cannot (what it found out about lanes from the reply before); `running_limit` of tasks of one owner, 0 for none.
-- Replies: {claimed, {field, value…}} | {lanes, lane, needs…}: judge these and call again | {empty} | {draining} | {unregistered}
local record = agent_prefix .. agent
if redis.pcall('HGET', record, 'session') ~= session then return {'unregistered'} end
local verdict_key, held_key = verdicts_prefix .. agent, held_prefix .. agent
-- Broken bytes under the agent's own keys must not keep it from working.
local before = redis.pcall('HGET', held_key, prompt_id)
if type(before) == 'table' then
  redis.call('DEL', held_key)
  before = nil
end
for lane, verdict in pairs(#verdicts > 1 and cmsgpack.unpack(verdicts) or {}) do
  if type(redis.pcall('HSET', verdict_key, lane, verdict)) == 'table' then
    redis.call('DEL', verdict_key)
    redis.call('HSET', verdict_key, lane, verdict)
  end
  redis.call('EXPIRE', verdict_key, '86400')
  if verdict == '0' and redis.call('ZSCORE', lanes, lane) then wake(lane) end  -- the wake-up was meant for an agent that can
end
redis.call('ZREM', idle, agent)
if redis.call('SISMEMBER', draining, agent) == 1 then return {'draining'} end

if before then  -- the same call again after a lost reply: it has its task already
  local task = open(before)
  if task and task.status == 'running' and task.agent == agent and task.session == session and task.prompt_id == prompt_id then
    return {'claimed', whole_record(task)}
  end
end

local held, capacity, paid = residents(agent)
local most, ageing = tonumber(running_limit), tonumber(ageing_ms)
local unknown = {'lanes'}
local found, seen = {}, {}

local function can_serve(lane)
  local verdict = redis.pcall('HGET', verdict_key, lane)
  if type(verdict) == 'table' then
    redis.call('DEL', verdict_key)
    verdict = nil
  end
  if not verdict then
    unknown[#unknown + 1] = lane
    local needs = redis.pcall('GET', needs_prefix .. lane)
    unknown[#unknown + 1] = type(needs) == 'string' and needs or ''
  end
  return verdict == '1'
end

local function look_at(lane)
  if seen[lane] then return end
  seen[lane] = true
  if can_serve(lane) then
    local heads = heads_of(lane, agent, most)
    if #heads > 0 then
      found[#found + 1] = {lane = lane, heads = heads, place = place_in(held, lane)}
    end
  end
end

local function given_early()  -- what was bound to this agent when it came; what it cannot serve after all goes to another
  for _, id in ipairs(redis.pcall('ZRANGE', assigned_prefix .. agent, 0, 63)) do
    local task = open(id)
    if not task or task.status ~= 'pending' then
      redis.call('ZREM', assigned_prefix .. agent, id)
    elseif can_serve(task.lane) then
      if may_run_more(task.owner, most) then return {lane = task.lane, place = place_in(held, task.lane)}, {id = id, owner = task.owner} end
    elseif #unknown == 1 then
      assign(task)
    else
      return nil
    end
  end
end

local function next_task()
  found, seen = {}, {}
  if EARLY[how] then return given_early() end
  local some = redis.call('ZRANGE', lanes, '0', '63')
  if #some == 64 then  -- what it has in memory may be further behind
    for i = 1, math.min(capacity, #held) do
      if redis.call('ZSCORE', lanes, held[i]) then look_at(held[i]) end
    end
  end
  for _, lane in ipairs(some) do look_at(lane) end
  local from = 64
  while #some == 64 and #found == 0 and #unknown == 1 do  -- more of them only when the agent can serve none of these
    some = redis.call('ZRANGE', lanes, from, from + 63)
    for _, lane in ipairs(some) do look_at(lane) end
    from = from + 64
  end
  if how == 'fifo' then return in_order(found) end
  return by_lane(found, capacity, paid, ageing)
end

local entry, head = next_task()
local task = entry and open_whole(head.id)
while entry and not task do  -- a broken record must not block the lane for ever
  set_aside(head.id, entry.lane, head.owner)
  entry, head = next_task()
  task = entry and open_whole(head.id)
end
if #unknown > 1 then return unknown end
if not entry then
  redis.call('ZADD', idle, now_text, agent)
  return {'empty'}
end

dequeue(task)
put_number(task, 'attempt', task.attempt + 1)
put(task, 'agent', agent)
put(task, 'session', session)
put(task, 'prompt_id', prompt_id)
put(task, 'started_at', now_text)
put_number(task, 'memory_place', entry.place)
remember(agent, entry.lane, held, capacity, entry.place == 0 or entry.place > capacity)
change_status(task, 'running')
redis.call('ZADD', leases, whole_text(now + tonumber(lease_ms)), task.id)
count(working, task.owner, '1')
redis.call('HSET', held_key, prompt_id, task.id)
tell(task, 'claimed', cjson.encode({agent = agent}))
return {'claimed', saved_whole(task)}
