-- claim: give the agent the next task that it can run; the prompt id of the attempt is recorded before anything is sent anywhere.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix leases task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses damaged batch_prefix
-- ARGV: agent session prompt_id lease_ms verdicts running_limit ageing_ms
-- USES: state time later record usage place memory apart wake move reuse heir quarantine heads choose claimant
-- Input: `verdicts` is msgpack: lane → '1' the agent can serve it, '0' it cannot (what it found out about lanes from the reply before); `running_limit` of tasks of one owner, 0 for none.
-- Replies: {claimed, {field, value…}} | {lanes, lane, needs…}: judge these and call again | {empty} | {draining} | {unregistered}
local claimant = claimant_of(agent)
if claimant.session ~= session then return {'unregistered'} end
local held_key = held_prefix .. agent
-- Broken bytes under the agent's own keys must not keep it from working.
local before = redis.pcall('HGET', held_key, prompt_id)
if type(before) == 'table' then
  redis.call('DEL', held_key)
  before = false
end
if #verdicts > 1 then keep_verdicts(claimant, cmsgpack.unpack(verdicts)) end
idles(claimant, false)
if claimant.draining then return {'draining'} end

if before then  -- the same call again after a lost reply: it has its task already
  local task = open(before)
  if task and task.status == 'running' and task.agent == agent and task.session == session and task.prompt_id == prompt_id then
    return {'claimed', whole_record(task)}
  end
end

claimant.unknown, claimant.most = {'lanes'}, tonumber(running_limit)
local entry, head, task
repeat  -- a broken record must not block the lane for ever
  if entry then set_aside(head.id, entry.lane, head.owner) end
  entry, head = next_task(claimant, tonumber(ageing_ms))
  task = entry and (head.task or open_whole(head.id))
until task or not entry
if #claimant.unknown > 1 then return claimant.unknown end
if not entry then
  idles(claimant, true)
  return {'empty'}
end

dequeue(task)
put_number(task, 'attempt', task.attempt + 1)
put(task, 'agent', agent)
put(task, 'session', session)
put(task, 'prompt_id', prompt_id)
put(task, 'started_at', now_text)
put_number(task, 'memory_place', entry.place)
local cold = entry.place == 0 or entry.place > claimant.capacity
remember(agent, entry.lane, claimant.held, claimant.capacity, cold)
if cold then claimant.paid = 0 end
change_status(task, 'running')
redis.call('ZADD', leases, whole_text(now + tonumber(lease_ms)), task.id)
count(working, task.owner, 1)
redis.call('HSET', held_key, prompt_id, task.id)
tell(task, 'claimed', claimant.told)
return {'claimed', saved_whole(task)}
