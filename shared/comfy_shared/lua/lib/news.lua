-- NEEDS: events
-- Tells every balancer that something about a workflow changed; what, it reads itself.
local function news(name)
  redis.call('XADD', events, 'MAXLEN', '~', '20000', '*', 'task', '', 'type', 'workflow', 'at', string.format('%.0f', now), 'workflow', name)
end
