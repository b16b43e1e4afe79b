-- adopt: the agent came back and found its prompt on its instance: the same attempt goes on under the new session.
-- KEYS: clock leases task_prefix story_prefix events held_prefix
-- ARGV: id agent session lease_ms
-- USES: offset time later record
-- Replies: {adopted, {field, value…}} | {gone}: it ended or runs elsewhere
local task = open(id)
if not task or task.status ~= 'running' or task.agent ~= agent then
  local held = redis.pcall('HGETALL', held_prefix .. agent)
  for i = 2, #held, 2 do
    if held[i] == id then redis.call('HDEL', held_prefix .. agent, held[i - 1]) end
  end
  return {'gone'}
end
put(task, 'session', session)
redis.call('ZADD', leases, whole_text(now + tonumber(lease_ms)), id)
tell(task, 'adopted', cjson.encode({agent = agent}))
save(task)
return {'adopted', whole_record(task)}
