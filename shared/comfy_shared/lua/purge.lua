-- purge: forget tasks that finished before the retention, and find input files that no task names any more.
-- KEYS: clock task_prefix story_prefix index_prefix finished inputs input_uses output_uses batch_prefix batches_prefix
-- ARGV: retention_ms input_retention_ms limit
-- USES: offset time
-- Replies: {{task id…}, {input address…}, {task id…}}: the tasks that are gone; inputs and tasks whose files are the caller's to delete
local gone = redis.call('ZRANGEBYSCORE', finished, '-inf', now - tonumber(retention_ms), 'LIMIT', 0, limit)
local function decoded(text)
  local ok, value = pcall(cjson.decode, text or '')
  return ok and type(value) == 'table' and value or {}
end
local unkept = {}  -- tasks whose files nobody names any more
for _, id in ipairs(gone) do
  local fields = redis.pcall('HMGET', task_prefix .. id, 'status', 'owner', 'workflow', 'labels', 'inputs', 'reused', 'batch')
  redis.call('ZREM', index_prefix .. 'all', id)
  if fields[1] then redis.call('ZREM', index_prefix .. 'status:' .. fields[1], id) end
  redis.call('ZREM', index_prefix .. 'status:open', id)  -- one that was set aside
  if fields[2] then redis.call('ZREM', index_prefix .. 'owner:' .. fields[2], id) end
  if fields[3] and fields[3] ~= '' then redis.call('ZREM', index_prefix .. 'workflow:' .. fields[3], id) end
  for name, value in pairs(decoded(fields[4])) do
    redis.call('ZREM', index_prefix .. 'label:' .. name .. '=' .. tostring(value), id)
  end
  for _, input in ipairs(decoded(fields[5])) do
    if type(input) == 'table' and type(input.sha256) == 'string' then
      if redis.call('HINCRBY', input_uses, input.sha256, -1) <= 0 then redis.call('HDEL', input_uses, input.sha256) end
      redis.call('ZADD', inputs, 'XX', now, input.sha256)
    end
  end
  local batch = type(fields[7]) == 'string' and fields[7]
  if batch then
    redis.call('ZREM', index_prefix .. 'batch:' .. batch, id)
    if redis.call('EXISTS', index_prefix .. 'batch:' .. batch) == 0 then  -- it was the last of its batch
      redis.call('DEL', batch_prefix .. batch)
      redis.call('ZREM', batches_prefix .. 'all', batch)
      redis.call('ZREM', batches_prefix .. 'owner:' .. tostring(fields[2]), batch)
    end
  end
  redis.call('DEL', task_prefix .. id, story_prefix .. id)
  local root = type(fields[6]) == 'string' and fields[6]
  if root and redis.call('HINCRBY', output_uses, root, -1) <= 0 then
    redis.call('HDEL', output_uses, root)
    if redis.call('EXISTS', task_prefix .. root) == 0 then unkept[#unkept + 1] = root end
  end
  if redis.call('HEXISTS', output_uses, id) == 0 then unkept[#unkept + 1] = id end
  redis.call('ZREM', finished, id)
end
local unused = {}
for _, address in ipairs(redis.call('ZRANGEBYSCORE', inputs, '-inf', now - tonumber(input_retention_ms), 'LIMIT', 0, limit)) do
  if redis.call('HEXISTS', input_uses, address) == 1 then
    redis.call('ZADD', inputs, now, address)
  else
    redis.call('ZREM', inputs, address)
    unused[#unused + 1] = address
  end
end
return {gone, unused, unkept}
