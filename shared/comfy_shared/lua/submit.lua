-- submit: accept tasks, all or none.
-- KEYS: clock sequence queue lanes lane_prefix turn_prefix owners_prefix needs_prefix task_prefix story_prefix events index_prefix agents agent_prefix verdicts_prefix held_prefix idle draining inputs input_uses memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation idempotency
-- ARGV: tasks queue_limit owner_limit ageing_ms fingerprint idempotency_ms
-- REST: prompt_of
-- USES: time story usage place memory apart wake
-- Input: `tasks` is msgpack: a list of {id, owner, lane, needs, priority, workflow, labels, inputs, fields, told}, each prompt follows as bytes of its own; an empty `fingerprint` means no idempotency key.
-- Replies: {accepted, now, position…} | {known, id…} | {conflict} | {full, waiting} | {owner_full, owner, waiting} | {input, address}
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

local all = redis.call('ZCARD', queue)
if all + #list > tonumber(queue_limit) then return {'full', all} end
local owners = {}
for _, task in ipairs(list) do owners[task.owner] = (owners[task.owner] or 0) + 1 end
for owner, number in pairs(owners) do
  local his = tonumber(redis.pcall('HGET', waiting, owner)) or 0
  if his + number > tonumber(owner_limit) then return {'owner_full', owner, his} end
end
for _, task in ipairs(list) do
  for _, address in ipairs(task.inputs) do
    if not redis.call('ZSCORE', inputs, address) then return {'input', address} end
  end
end

local function next_order(priority)  -- a level of priority is worth so much waiting: what waits longer goes first; equals stay in order
  local base = math.max((tonumber(redis.call('GET', sequence)) or 0) + 1, now * 1024)
  redis.call('SET', sequence, string.format('%.0f', base))
  return string.format('%.0f', base + (9 - priority) * tonumber(ageing_ms) * 1024)
end

local reply = {'accepted', now}
local seen = {fingerprint}
for i, task in ipairs(list) do
  local order = next_order(task.priority)
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
  enqueue(task.id, task.lane, task.owner, order)
  reply[i + 2] = redis.call('ZRANK', queue, task.id)
  seen[i + 1] = task.id
end
local asleep = {}  -- lanes for which nobody idle is left
for _, task in ipairs(list) do
  asleep[task.lane] = asleep[task.lane] or not give(task.id, task.lane)
end
if fingerprint ~= '' then redis.call('SET', idempotency, cmsgpack.pack(seen), 'PX', idempotency_ms) end
return reply
