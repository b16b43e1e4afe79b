-- NEEDS: queue agents servers_prefix stats_prefix task_prefix
-- Which of the waiting lanes the agent takes from. Each entry: {lane, order of its head, head, waiting, place in memory or 0}.
-- See "Which task next" in the design: stay on what is in memory, load only what is unserved, overdue or worth it.
local function first_in_first_out(entries)
  local best
  for _, entry in ipairs(entries) do
    if not best or entry.order < best.order then best = entry end
  end
  return best
end

local function longer(a, b)  -- a goes before b: nobody serves it, then the longer backlog for each who does, then the older
  if not b then return true end
  if (a.servers == 0) ~= (b.servers == 0) then return a.servers == 0 end
  local left, right = a.waiting / math.max(1, a.servers), b.waiting / math.max(1, b.servers)
  if left ~= right then return left > right end
  return a.order < b.order
end

local function by_lane(entries, capacity, paid)
  local highest = -1
  for _, entry in ipairs(entries) do
    entry.priority = 9 - math.floor(entry.order / 281474976710656)
    highest = math.max(highest, entry.priority)
  end
  local everybody = math.max(1, redis.call('ZCOUNT', agents, now, '+inf'))
  local run_of_all = tonumber(redis.pcall('HGET', stats_prefix .. 'all', 'run')) or 1000
  -- It grows with the backlog: a fixed bound turns a burst into first in, first out, with a load for each task.
  local overdue_after = math.max(60000, 3 * redis.call('ZCARD', queue) * run_of_all / everybody)
  local warm, cold, overdue
  for _, entry in ipairs(entries) do
    if entry.priority == highest then
      local worth
      worth, entry.servers = worth_a_load(entry.lane, entry.waiting)
      if entry.place > 0 and entry.place <= capacity then
        local _, load = costs(entry.lane)
        if entry.place == 1 and paid < load then return entry end
        if longer(entry, warm) then warm = entry end
      else
        local waited = now - (tonumber(redis.call('HGET', task_prefix .. entry.head, 'created_at')) or now)
        if waited > overdue_after * (entry.servers == 0 and 1 or 2) and (not overdue or entry.order < overdue.order) then
          overdue = entry
        end
        if worth and longer(entry, cold) then cold = entry end
      end
    end
  end
  return overdue or warm or cold
end
