-- submit: accept tasks, all or none.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation reuse_prefix followers_prefix output_uses sequence inputs input_uses batch_prefix batches_prefix idempotency
-- ARGV: tasks batch queue_limit owner_limit ageing_ms retention_ms fingerprint idempotency_ms
-- REST: bytes_of
-- USES: state time later record usage order place memory apart wake move reuse
-- Input: `tasks` is msgpack: a list of {id, owner, lane, needs, priority, workflow, labels, inputs, reuse, front, fields, told}, after it each prompt, then each task's `extra` (or empty), as bytes of their own; `front` goes before what waits of its owner in the lane; `batch` is msgpack: {id, owner, fields} of the batch that they are, or empty; an empty `fingerprint` means no idempotency key.
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

local all = queue_length()
if all + #list > tonumber(queue_limit) then return {'full', all} end
local owners = {}
for _, task in ipairs(list) do owners[task.owner] = (owners[task.owner] or 0) + 1 end
for owner, number in pairs(owners) do
  local his = counted(waiting, owner)
  if his + number > tonumber(owner_limit) then return {'owner_full', owner, his} end
end
for _, task in ipairs(list) do
  for _, address in ipairs(task.inputs) do
    if not redis.call('ZSCORE', inputs, address) then return {'input', address} end
  end
end

local together = batch ~= '' and cmsgpack.unpack(batch)
if together then
  redis.call('HSET', batch_prefix .. together.id, 'created_at', now_text, 'pending', #list, unpack(together.fields))
  redis.call('ZADD', batches_prefix .. 'all', now_text, together.id)
  redis.call('ZADD', batches_prefix .. 'owner:' .. together.owner, now_text, together.id)
end

local reply = {'accepted', now}
local seen = {fingerprint}
local asleep = {}  -- lanes for which nobody idle is left
local waits = {}
for i, new in ipairs(list) do
  local task = {
    id = new.id, owner = new.owner, lane = new.lane, priority = new.priority, events = 0, changes = new.fields, gone = {},
  }
  if together then put(task, 'batch', together.id) end
  put(task, 'status', 'pending')
  put_number(task, 'attempt', 0)
  put(task, 'created_at', now_text)
  put(task, 'order', new.front and in_front(new, ageing_ms) or next_order(new.priority, ageing_ms))
  put(task, 'prompt', bytes_of(i))
  local extra = bytes_of(#list + i)
  if extra ~= '' then put(task, 'extra', extra) end
  index(index_prefix .. 'all', new.id, now_text)
  index(index_prefix .. 'status:open', new.id, now_text)
  index(index_prefix .. 'owner:' .. new.owner, new.id, now_text)
  if new.workflow ~= '' then index(index_prefix .. 'workflow:' .. new.workflow, new.id, now_text) end
  for _, label in ipairs(new.labels) do index(index_prefix .. 'label:' .. label, new.id, now_text) end
  if together then index(index_prefix .. 'batch:' .. together.id, new.id, now_text) end
  for _, address in ipairs(new.inputs) do
    redis.call('HINCRBY', input_uses, address, 1)
    redis.call('ZADD', inputs, now_text, address)
  end
  tell(task, 'queued', new.told)
  seen[i + 1] = new.id
  if new.reuse ~= '' then put(task, 'reuse', new.reuse) end
  if new.reuse ~= '' and join(task, retention_ms) then
    reply[i + 2] = -1
    redis.call('SET', needs_prefix .. new.lane, new.needs, 'NX', 'EX', 2592000)
  else
    if enqueue(task) then redis.call('SET', needs_prefix .. new.lane, new.needs) end
    save(task)
    reply[i + 2] = redis.call('ZRANK', queue, new.id)
    waits[#waits + 1] = task
  end
end
for _, task in ipairs(waits) do
  asleep[task.lane] = asleep[task.lane] or not give(task)
end
if fingerprint ~= '' then redis.call('SET', idempotency, cmsgpack.pack(seen), 'PX', idempotency_ms) end
return reply
