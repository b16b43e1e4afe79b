-- NEEDS: clock
-- The time of Redis in ms, plus the offset that only tests set: machines' clocks need not agree.
local parts = redis.call('TIME')
local now = parts[1] * 1000 + math.floor(parts[2] / 1000) + tonumber(redis.call('GET', clock) or '0')
