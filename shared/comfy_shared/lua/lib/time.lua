-- NEEDS: clock
-- The time of Redis in ms, plus the offset that only tests set: machines' clocks need not agree.
local parts = redis.call('TIME')
local now = parts[1] * 1000 + math.floor(parts[2] / 1000) + tonumber(redis.call('GET', clock) or '0')
local now_text = string.format('%.0f', now)  -- a number is printed anew by each command that it is given to
