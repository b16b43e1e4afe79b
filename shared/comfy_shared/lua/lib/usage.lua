-- NEEDS: usage working
-- What each owner used of the GPUs lately, in ms of a prompt's run: half of it is forgotten after an hour, so that yesterday's night shift
-- does not cost today's place. What an owner runs now counts as an average run each, or one owner would get every agent at once.
local HALF_LIFE = 3600000

local charged = {}  -- owner → what it is now, not yet written
local function used(owner)
  if charged[owner] then return charged[owner] end
  local amount, at = (tostring(redis.pcall('HGET', usage, owner))):match('^(%S+) (%S+)$')
  amount, at = tonumber(amount), tonumber(at)
  if not amount or not at then return 0 end
  return amount * 0.5 ^ (math.max(0, now - at) / HALF_LIFE)
end

local function keep_usage()
  for owner, amount in pairs(charged) do write('HSET', usage, owner, string.format('%.3f %.0f', amount, now)) end
end

local function charge(owner, gpu_ms)
  if not next(charged) then at_end[#at_end + 1] = keep_usage end
  charged[owner] = used(owner) + math.max(0, gpu_ms)
end

-- Tasks that wait or run, by owner: what changed is added at the end, or before somebody reads the whole counter.
local counts = {}  -- counter → owner → {as stored, once read; what changed since}
local function keep_counts()
  for counter, owners in pairs(counts) do
    for owner, number in pairs(owners) do
      local change = number[2]
      number = change ~= 0 and redis.pcall('HINCRBY', counter, owner, whole_text(change)) or 1
      if type(number) ~= 'number' then
        redis.call('DEL', counter)  -- broken bytes; it counts anew
      elseif number <= 0 then
        redis.call('HDEL', counter, owner)
      end
    end
  end
  counts = {}
end

local function count_of(counter, owner)
  if not next(counts) then at_end[#at_end + 1] = keep_counts end
  local owners = counts[counter]
  if not owners then
    owners = {}
    counts[counter] = owners
  end
  local number = owners[owner]
  if not number then
    number = {false, 0}
    owners[owner] = number
  end
  return number
end

local function count(counter, owner, change)
  local number = count_of(counter, owner)
  number[2] = number[2] + change
end

local function counted(counter, owner)
  local number = count_of(counter, owner)
  if not number[1] then number[1] = tonumber(redis.pcall('HGET', counter, owner)) or 0 end
  return number[1] + number[2]
end

local function share_of(owner, run_ms)
  return used(owner) + counted(working, owner) * run_ms
end
