-- report: tell one line of the story of a running attempt.
-- KEYS: clock task_prefix story_prefix events
-- ARGV: id attempt session kind progress data
-- USES: time story sound
-- Input: an empty `progress` leaves the recorded one.
-- Replies: ok | stale
if not sound(id) then return 'stale' end
local fields = redis.call('HMGET', task_prefix .. id, 'status', 'attempt', 'session')
if fields[1] ~= 'running' or fields[2] ~= attempt or fields[3] ~= session then return 'stale' end
if progress ~= '' then redis.call('HSET', task_prefix .. id, 'progress', progress) end
tell(id, kind, attempt, data)
return 'ok'
