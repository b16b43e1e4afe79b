-- The time of Redis in ms, plus the offset that only tests set: machines' clocks need not agree.
local parts = redis.call('TIME')
local now = parts[1] * 1000 + math.floor(parts[2] / 1000) + tonumber(offset or '0')

local TEXT = {[0] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'}  -- most are small, and to print one is slow

local function whole_text(number)  -- a number is printed anew by each command that it is given to
  return TEXT[number] or string.format('%.0f', number)
end
local now_text = whole_text(now)
