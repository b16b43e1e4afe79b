-- NEEDS: usage working
-- What each owner used of the GPUs lately, in ms of a prompt's run: half of it is forgotten after an hour, so that yesterday's night shift
-- does not cost today's place. What an owner runs now counts as an average run each, or one owner would get every agent at once.
local HALF_LIFE = 3600000

local function used(owner)
  local amount, at = (tostring(redis.pcall('HGET', usage, owner))):match('^(%S+) (%S+)$')
  amount, at = tonumber(amount), tonumber(at)
  if not amount or not at then return 0 end
  return amount * 0.5 ^ (math.max(0, now - at) / HALF_LIFE)
end

local function charge(owner, gpu_ms)
  redis.call('HSET', usage, owner, string.format('%.3f %.0f', used(owner) + math.max(0, gpu_ms), now))
end

local function share_of(owner, run_ms)
  return used(owner) + (tonumber(redis.call('HGET', working, owner)) or 0) * run_ms
end

local function count(counter, owner, change)  -- of tasks that wait or run, by owner
  local number = redis.pcall('HINCRBY', counter, owner, change)
  if type(number) ~= 'number' then
    redis.call('DEL', counter)  -- broken bytes; it counts anew
  elseif number <= 0 then
    redis.call('HDEL', counter, owner)
  end
end
