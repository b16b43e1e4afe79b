-- canary: let a version of a workflow run a share of its tasks before it is made the active one.
-- KEYS: clock workflows workflow events
-- ARGV: name number share
-- USES: offset time news standing
-- Input: `share` in percent; 0 ends it, whatever `number` is.
-- Replies: ok | unknown | no_version | active
local at = standing(name)
if not at then return 'unknown' end
if share == '0' then
  at.canary, at.share = 0, 0
else
  if redis.pcall('HEXISTS', workflow, 'content:' .. number) ~= 1 then return 'no_version' end
  if at.active == tonumber(number) then return 'active' end
  at.canary, at.share = tonumber(number), tonumber(share)
end
stand(name, at)
news(name)
return 'ok'
