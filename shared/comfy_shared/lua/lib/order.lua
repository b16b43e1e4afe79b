-- NEEDS: sequence turn_prefix
-- A task's order: lower goes first. A level of priority is worth so much waiting: what waits longer goes first; equals stay in order.
local last_order
local function keep_order()
  redis.call('SET', sequence, whole_text(last_order))
end

local function next_order(priority, ageing_ms)
  if not last_order then
    last_order = tonumber(redis.call('GET', sequence)) or 0
    at_end[#at_end + 1] = keep_order
  end
  last_order = math.max(last_order + 1, now * 1024)
  return whole_text(last_order + (9 - priority) * tonumber(ageing_ms) * 1024)
end

local function in_front(new, ageing_ms)  -- rare: it takes over the waiting time of the first of its owner's own
  local first = redis.call('ZRANGE', turn_prefix .. new.lane .. ':' .. new.owner, '0', '0', 'WITHSCORES')
  return first[2] and whole_text(tonumber(first[2]) - 1) or next_order(new.priority, ageing_ms)
end
