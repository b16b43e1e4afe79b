-- NEEDS: vram
-- An attempt ended badly but another may do: back to the head of its lane, another agent first (after out of memory one with more of it),
-- until the attempts are used up. The lease was ended by the caller.
local function try_again(task, code, problem, avoid_ms, retention_ms)
  local counter = ({instance_lost = 'crashes', device_failed = 'crashes', timeout = 'timeouts'})[code]
  if counter then put_number(task, counter, (task[counter] or 0) + 1) end
  put(task, 'error', problem)
  if task.attempt >= task.max_attempts or (counter and task[counter] >= 2) then
    put(task, 'dead', '1')
    finish(task, 'failed', problem, retention_ms)
    return 'failed'
  end
  local had = code == 'out_of_memory' and redis.call('ZSCORE', vram, task.agent)
  if had then put(task, 'more_vram', had) end
  put(task, 'avoid', task.agent)
  put_number(task, 'avoid_until', now + tonumber(avoid_ms))
  drop(task, 'progress')
  change_status(task, 'pending')
  tell(task, 'retrying', problem)
  put_back(task)
  save(task)
  give(task)
  return 'pending'
end
