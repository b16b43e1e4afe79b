-- complain: say what is wrong with the files of a workflow, or that nothing is.
-- KEYS: clock workflow_problems events
-- ARGV: name problem limit
-- USES: offset time news
-- Input: an empty `problem` means that the files are sound.
-- Replies: told | known
local before = redis.call('HGET', workflow_problems, name)
if problem == '' then
  if not before then return 'known' end
  redis.call('HDEL', workflow_problems, name)
else
  if before and before:match('^%d+ (.*)$') == problem then return 'known' end
  if not before and redis.call('HLEN', workflow_problems) >= tonumber(limit) then return 'known' end
  redis.call('HSET', workflow_problems, name, string.format('%.0f ', now) .. problem)
end
news(name)
return 'told'
