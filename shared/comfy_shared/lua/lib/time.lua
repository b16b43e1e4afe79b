-- NEEDS: clock
-- The time of Redis in ms, plus the offset that only tests set: machines' clocks need not agree.
local parts = redis.call('TIME')
local now = parts[1] * 1000 + math.floor(parts[2] / 1000) + tonumber(redis.call('GET', clock) or '0')

local function whole_text(number)  -- a number is printed anew, and slowly, by each command that it is given to
  return string.format('%.0f', number)
end
local now_text = whole_text(now)
