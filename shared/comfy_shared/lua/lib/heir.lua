-- NEEDS: reuse_prefix followers_prefix
-- A task that others joined goes without a result (see reuse).
local function pass_on(id, reuse, retention_ms)  -- it will have no result: the first that joined it renders instead, for the others too
  if redis.pcall('GET', reuse_prefix .. reuse) == id then redis.call('DEL', reuse_prefix .. reuse) end
  local followers = joined_of(id)
  local first = table.remove(followers, 1)
  if not first then return end
  drop(first, 'joined')
  put(first, 'reuse', reuse)
  put_back(first)
  save(first)
  redis.call('SET', reuse_prefix .. reuse, first.id, 'PX', retention_ms)
  for _, task in ipairs(followers) do
    put(task, 'joined', first.id)
    save(task)
    redis.call('SADD', followers_prefix .. first.id, task.id)
  end
  return first
end
