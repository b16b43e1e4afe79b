-- hide: take tasks out of their owner's history as ComfyUI clients see it.
-- KEYS: task_prefix
-- ARGV: ids
-- Input: `ids` is msgpack: a list of task ids; what is no task is left alone.
-- Replies: ok
for _, id in ipairs(cmsgpack.unpack(ids)) do
  if redis.pcall('HEXISTS', task_prefix .. id, 'id') == 1 then redis.call('HSET', task_prefix .. id, 'hidden', '1') end
end
return 'ok'
