-- submit: accept tasks, all or none.
-- KEYS: clock sequence queue lanes lane_prefix needs_prefix task_prefix story_prefix events index_prefix agents agent_prefix verdicts_prefix idle inputs input_uses memory_prefix servers_prefix stats_prefix policy idempotency
-- ARGV: tasks queue_limit fingerprint idempotency_ms
-- REST: prompt_of
-- USES: time story place memory wake
-- Input: `tasks` is msgpack: a list of {id, owner, lane, needs, priority, workflow, labels, inputs, fields, told}, each prompt follows as bytes of its own; an empty `fingerprint` means no idempotency key.
-- Replies: {accepted, now, position…} | {known, id…} | {conflict} | {full, waiting} | {input, address}
local list = cmsgpack.unpack(tasks)

if fingerprint ~= '' then
  local read, seen = pcall(cmsgpack.unpack, redis.pcall('GET', idempotency))
  if read and type(seen) == 'table' then  -- anything else is nothing, or nothing of ours
    if seen[1] ~= fingerprint then return {'conflict'} end
    table.remove(seen, 1)
    return {'known', unpack(seen)}
  end
elseif redis.call('EXISTS', task_prefix .. list[1].id) == 1 then
  return {'known', list[1].id}  -- the same call again after a lost reply: ids are the caller's own
end

local waiting = redis.call('ZCARD', queue)
if waiting + #list > tonumber(queue_limit) then return {'full', waiting} end
for _, task in ipairs(list) do
  for _, address in ipairs(task.inputs) do
    if not redis.call('ZSCORE', inputs, address) then return {'input', address} end
  end
end

local reply = {'accepted', now}
local seen = {fingerprint}
for i, task in ipairs(list) do
  local order = (9 - task.priority) * 281474976710656 + redis.call('INCR', sequence)
  local key = task_prefix .. task.id
  redis.call('HSET', key, 'status', 'pending', 'attempt', '0', 'created_at', now, 'order', order, 'prompt', prompt_of(i), unpack(task.fields))
  redis.call('ZADD', index_prefix .. 'all', now, task.id)
  redis.call('ZADD', index_prefix .. 'status:pending', now, task.id)
  redis.call('ZADD', index_prefix .. 'owner:' .. task.owner, now, task.id)
  if task.workflow ~= '' then redis.call('ZADD', index_prefix .. 'workflow:' .. task.workflow, now, task.id) end
  for _, label in ipairs(task.labels) do redis.call('ZADD', index_prefix .. 'label:' .. label, now, task.id) end
  for _, address in ipairs(task.inputs) do
    redis.call('HINCRBY', input_uses, address, 1)
    redis.call('ZADD', inputs, now, address)
  end
  redis.call('SET', needs_prefix .. task.lane, task.needs)
  tell(task.id, 'queued', 0, task.told)
  enqueue(task.id, task.lane, order)
  reply[i + 2] = redis.call('ZRANK', queue, task.id)
  seen[i + 1] = task.id
end
local asleep = {}  -- lanes for which nobody idle is left
for _, task in ipairs(list) do
  asleep[task.lane] = asleep[task.lane] or not wake(task.lane)
end
if fingerprint ~= '' then redis.call('SET', idempotency, cmsgpack.pack(seen), 'PX', idempotency_ms) end
return reply
