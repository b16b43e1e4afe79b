-- NEEDS: agents agent_prefix verdicts_prefix idle
-- Wakes the agent that has been idle longest, is alive and is not known to be unable to serve the lane. Looks at 64 at most.
local function wake(lane)
  for _, agent in ipairs(redis.call('ZRANGE', idle, 0, 63)) do
    local alive_until = redis.call('ZSCORE', agents, agent)
    if not alive_until or tonumber(alive_until) < now then
      redis.call('ZREM', idle, agent)
    elseif redis.pcall('HGET', verdicts_prefix .. agent, lane) ~= '0' then
      redis.call('ZREM', idle, agent)
      redis.call('PUBLISH', agent_prefix .. agent, 'wake')
      return true
    end
  end
  return false
end
