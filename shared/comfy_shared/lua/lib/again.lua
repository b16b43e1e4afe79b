-- NEEDS: queue lanes lane_prefix needs_prefix vram
-- An attempt ended badly but another may do: back to the head of its lane, another agent first (after out of memory one with more of it),
-- until the attempts are used up. The lease was ended by the caller.
local function try_again(id, agent, attempt, code, problem, avoid_ms, retention_ms)
  local key = task_prefix .. id
  local record = redis.call('HMGET', key, 'lane', 'order', 'created_at', 'max_attempts', 'owner')
  local again = {instance_lost = 'crashes', timeout = 'timeouts'}
  local times = again[code] and redis.call('HINCRBY', key, again[code], 1) or 0
  redis.call('HSET', key, 'error', problem)
  if attempt >= tonumber(record[4]) or times >= 2 then
    redis.call('HSET', key, 'dead', '1')
    finish(id, 'running', 'failed', record[3], 'failed', attempt, problem, retention_ms)
    return 'failed'
  end
  if code == 'out_of_memory' then
    local had = redis.call('ZSCORE', vram, agent)
    if had then redis.call('HSET', key, 'more_vram', had) end
  end
  redis.call('HSET', key, 'avoid', agent, 'avoid_until', now + tonumber(avoid_ms))
  redis.call('HDEL', key, 'progress')
  change_status(id, 'running', 'pending', record[3])
  tell(id, 'retrying', attempt, problem)
  enqueue(id, record[1], record[5], record[2])
  give(id, record[1])
  return 'pending'
end
