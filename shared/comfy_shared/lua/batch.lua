-- batch: what is known of a batch, and how far those of its tasks are that run now.
-- KEYS: batch_prefix index_prefix task_prefix leases
-- ARGV: id
-- Replies: {{field, value…}, {progress as JSON…}}; the fields are empty when there is no such batch
local record = redis.pcall('HGETALL', batch_prefix .. id)
if record.err then record = {} end
local progress = {}
local running = redis.pcall('ZINTER', 2, leases, index_prefix .. 'batch:' .. id)
for _, task in ipairs(running) do
  local told = redis.pcall('HGET', task_prefix .. task, 'progress')
  if type(told) == 'string' then progress[#progress + 1] = told end
end
return {record, progress}
