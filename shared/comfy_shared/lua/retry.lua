-- retry: put a failed or canceled task back by hand, with fresh attempts; the numbers of the attempts go on.
-- KEYS: clock queue lanes lane_prefix turn_prefix owners_prefix needs_prefix task_prefix story_prefix events index_prefix finished agents agent_prefix verdicts_prefix held_prefix idle draining memory_prefix servers_prefix stats_prefix policy waiting working usage vram assigned_prefix rotation batch_prefix
-- ARGV: id needs attempts queue_limit
-- USES: state time later record usage place memory apart wake move
-- Replies: {pending} | {already, status} | {unknown} | {damaged} | {full, waiting}
local key = task_prefix .. id
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
local task = open(id)
if not task then return {'damaged'} end
if task.status ~= 'failed' and task.status ~= 'canceled' then return {'already', task.status} end
local all = redis.call('ZCARD', queue)
if all >= tonumber(queue_limit) then return {'full', all} end
redis.call('PERSIST', key)
redis.call('PERSIST', story_prefix .. id)
redis.call('ZREM', finished, id)
drop(task, 'error', 'outputs', 'progress', 'finished_at', 'avoid', 'avoid_until', 'crashes', 'timeouts', 'dead', 'more_vram', 'joined', 'reuse')
put_number(task, 'max_attempts', task.attempt + tonumber(attempts))
redis.call('SET', needs_prefix .. task.lane, needs)
change_status(task, 'pending')
tell(task, 'queued', '{"by_hand":true}')
enqueue(task)
save(task)
give(task)
return {'pending'}
