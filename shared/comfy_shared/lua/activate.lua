-- activate: make a version of a workflow the one that its tasks run; an older one rolls back.
-- KEYS: clock workflows workflow events
-- ARGV: name number
-- USES: offset time news standing
-- Replies: activated | unchanged | unknown | no_version
local at = standing(name)
if not at then return 'unknown' end
if redis.pcall('HEXISTS', workflow, 'content:' .. number) ~= 1 then return 'no_version' end
if at.active == tonumber(number) then return 'unchanged' end
make_active(name, at, tonumber(number))
news(name)
return 'activated'
