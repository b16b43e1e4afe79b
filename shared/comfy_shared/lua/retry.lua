-- retry: put a failed or canceled task back by hand, with fresh attempts; the numbers of the attempts go on.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix idle leases held_prefix draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation
-- ARGV: id needs attempts queue_limit
-- USES: time story usage place memory apart wake move sound
-- Replies: {pending} | {already, status} | {unknown} | {damaged} | {full, waiting}
local key = task_prefix .. id
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
if not sound(id) then return {'damaged'} end
local fields = redis.call('HMGET', key, 'status', 'attempt', 'created_at', 'lane', 'order', 'owner')
local status = fields[1]
if status ~= 'failed' and status ~= 'canceled' then return {'already', status} end
local waiting = redis.call('ZCARD', queue)
if waiting >= tonumber(queue_limit) then return {'full', waiting} end
redis.call('PERSIST', key)
redis.call('PERSIST', story_prefix .. id)
redis.call('ZREM', finished, id)
redis.call('HDEL', key, 'error', 'outputs', 'progress', 'finished_at', 'avoid', 'avoid_until', 'crashes', 'timeouts', 'dead', 'more_vram')
redis.call('HSET', key, 'max_attempts', fields[2] + attempts)
redis.call('SET', needs_prefix .. fields[4], needs)
change_status(id, status, 'pending', fields[3])
tell(id, 'queued', fields[2], '{"by_hand":true}')
enqueue(id, fields[4], fields[6], fields[5])
give(id, fields[4])
return {'pending'}
