-- report: tell one line of the story of a running attempt.
-- KEYS: clock task_prefix story_prefix events
-- ARGV: id attempt session kind progress data
-- USES: offset time later record
-- Input: an empty `progress` leaves the recorded one.
-- Replies: ok | stale
local task = open(id)
if not task or task.status ~= 'running' or tostring(task.attempt) ~= attempt or task.session ~= session then return 'stale' end
if progress ~= '' then put(task, 'progress', progress) end
tell(task, kind, data)
save(task)
return 'ok'
