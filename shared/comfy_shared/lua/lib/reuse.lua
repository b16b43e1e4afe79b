-- NEEDS: task_prefix reuse_prefix followers_prefix output_uses
-- What the end of a task means for those that joined it (`reuse`): they end as it did.
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

local function end_joined(task, to, data, retention_ms, outputs, told)  -- rare
  if to == 'completed' then
    for _, other in ipairs(joined_of(task.id)) do take_result(other, task, outputs, told, retention_ms) end
  else
    if redis.pcall('GET', reuse_prefix .. task.reuse) == task.id then redis.call('DEL', reuse_prefix .. task.reuse) end
    for _, other in ipairs(joined_of(task.id)) do
      put(other, 'error', data)
      close(other, 'failed', data, retention_ms)
    end
  end
end

local function finish(task, to, data, retention_ms, outputs, told)  -- to: completed or failed
  close(task, to, data, retention_ms)
  if task.reuse then end_joined(task, to, data, retention_ms, outputs, told) end
end

local function join(task, retention_ms)  -- rare: whether another task renders the same, or has
  local leader = redis.pcall('GET', reuse_prefix .. task.reuse)
  leader = type(leader) == 'string' and open(leader)
  if leader and leader.status == 'completed' then
    local outputs = redis.call('HGET', task_prefix .. leader.id, 'outputs')
    local read, list = pcall(cjson.decode, outputs or '')
    if not read or type(list) ~= 'table' then return false end
    local told = {}
    for i, output in ipairs(list) do told[i] = cjson.encode({output = output}) end
    take_result(task, leader, outputs, told, retention_ms)
  elseif leader and (leader.status == 'pending' or leader.status == 'running') and not leader.joined then
    put(task, 'joined', leader.id)
    save(task)
    redis.call('SADD', followers_prefix .. leader.id, task.id)
  else
    redis.call('SET', reuse_prefix .. task.reuse, task.id, 'PX', retention_ms)
    return false
  end
  return true
end
