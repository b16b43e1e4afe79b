-- NEEDS: task_prefix story_prefix leases held_prefix index_prefix finished working reuse_prefix followers_prefix output_uses batch_prefix
-- Status changes that several transitions share; and what the end of a task means for those that joined it (`reuse`).
local OPEN = {pending = 'open', running = 'open'}  -- these two share an index: most tasks pass both within seconds

local function tally(batch, from, to)  -- a batch counts its tasks by status
  local key = batch_prefix .. batch
  if redis.call('EXISTS', key) == 0 then return end
  redis.pcall('HINCRBY', key, from, -1)
  redis.pcall('HINCRBY', key, to, 1)
end

local function change_status(task, to)
  if task.batch then tally(task.batch, task.status, to) end
  local before, after = OPEN[task.status] or task.status, OPEN[to] or to
  if before ~= after then
    redis.call('ZREM', index_prefix .. 'status:' .. before, task.id)
    redis.call('ZADD', index_prefix .. 'status:' .. after, task.created_at, task.id)
  end
  put(task, 'status', to)
end

local function end_lease(task)  -- first the lease: that needs no memory (see settle)
  if redis.call('ZREM', leases, task.id) == 1 then count(working, task.owner, '-1') end
  redis.pcall('HDEL', held_prefix .. task.agent, task.id)
end

local function close(task, to, data, retention_ms)  -- to: completed, failed or canceled; writes the record
  change_status(task, to)
  put(task, 'finished_at', now_text)
  redis.call('ZADD', finished, now_text, task.id)
  tell(task, to, data)
  save(task)
  -- The purge removes both at the end of the retention; the TTL is for the case that no balancer is left to do it.
  local last_resort = whole_text(tonumber(retention_ms) + 86400000)
  redis.call('PEXPIRE', task_prefix .. task.id, last_resort)
  redis.call('PEXPIRE', story_prefix .. task.id, last_resort)
end

local function take_result(task, from, outputs, told, retention_ms)  -- the files stay where they are, for as long as any task names them
  local root = from.reused or from.id
  put(task, 'outputs', outputs)
  put(task, 'reused', root)
  drop(task, 'joined', 'error')
  redis.call('HINCRBY', output_uses, root, 1)
  for _, data in ipairs(told) do tell(task, 'output', data) end
  close(task, 'completed', '{"reused":true}', retention_ms)
end

local function joined_of(id)
  local followers = {}
  for _, other in ipairs(redis.pcall('SMEMBERS', followers_prefix .. id)) do
    local task = open(other)
    if task and task.status == 'pending' and task.joined == id then followers[#followers + 1] = task end
  end
  redis.call('DEL', followers_prefix .. id)
  return followers
end

local function pass_on(id, reuse, retention_ms)  -- it will have no result: the first that joined it renders instead, for the others too
  if redis.pcall('GET', reuse_prefix .. reuse) == id then redis.call('DEL', reuse_prefix .. reuse) end
  local followers = joined_of(id)
  local first = table.remove(followers, 1)
  if not first then return end
  drop(first, 'joined')
  put(first, 'reuse', reuse)
  enqueue(first)
  save(first)
  redis.call('SET', reuse_prefix .. reuse, first.id, 'PX', retention_ms)
  for _, task in ipairs(followers) do
    put(task, 'joined', first.id)
    save(task)
    redis.call('SADD', followers_prefix .. first.id, task.id)
  end
  return first
end

local function finish(task, to, data, retention_ms, outputs, told)
  close(task, to, data, retention_ms)
  if not task.reuse then return end
  if to == 'completed' then
    for _, other in ipairs(joined_of(task.id)) do take_result(other, task, outputs, told, retention_ms) end
  elseif to == 'failed' then
    if redis.pcall('GET', reuse_prefix .. task.reuse) == task.id then redis.call('DEL', reuse_prefix .. task.reuse) end
    for _, other in ipairs(joined_of(task.id)) do
      put(other, 'error', data)
      close(other, 'failed', data, retention_ms)
    end
  else
    local first = pass_on(task.id, task.reuse, retention_ms)
    if first then give(first) end
  end
end
