-- NEEDS: task_prefix story_prefix index_prefix finished batch_prefix
-- Status changes that several transitions share.
local OPEN = {pending = 'open', running = 'open'}  -- these two share an index: most tasks pass both within seconds

local function tally(batch, from, to)  -- rare: a batch counts its tasks by status
  local key = batch_prefix .. batch
  if redis.call('EXISTS', key) == 0 then return end
  redis.pcall('HINCRBY', key, from, -1)
  redis.pcall('HINCRBY', key, to, 1)
end

local function change_status(task, to)
  if task.batch then tally(task.batch, task.status, to) end
  local before, after = OPEN[task.status] or task.status, OPEN[to] or to
  if before ~= after then
    index(index_prefix .. 'status:' .. before, task.id, false)
    index(index_prefix .. 'status:' .. after, task.id, task.created_at)
  end
  put(task, 'status', to)
end

local function close(task, to, data, retention_ms)  -- to: completed, failed or canceled; writes the record
  change_status(task, to)
  put(task, 'finished_at', now_text)
  index(finished, task.id, now_text)
  tell(task, to, data)
  save(task)
  -- The purge removes both at the end of the retention; the TTL is for the case that no balancer is left to do it.
  local last_resort = whole_text(tonumber(retention_ms) + 86400000)
  redis.call('PEXPIRE', task_prefix .. task.id, last_resort)
  redis.call('PEXPIRE', story_prefix .. task.id, last_resort)
end
