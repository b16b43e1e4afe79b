-- NEEDS: queue agents servers_prefix stats_prefix usage working
-- Which of the waiting tasks the agent takes. A lane is {lane, place, waiting, heads}; place is its place in the instance's memory or 0, and
-- heads are the first task of each owner: {id, owner, priority, created, order}.
-- See "Which task next" in the design: priority first (a task that waits long rises, at most to the highest that waits); then stay on what is
-- in memory, load only what is unserved, overdue or worth it; within a lane the owner that used the GPUs least, then the oldest.
local function in_order(found)
  local best, from
  for _, entry in ipairs(found) do
    for _, head in ipairs(entry.heads) do
      if not best or head.order < best.order then best, from = head, entry end
    end
  end
  return from, best
end

local function raise(found, ageing_ms)  -- gives every head its level; returns the level that goes first
  local top = 0
  for _, entry in ipairs(found) do
    for _, head in ipairs(entry.heads) do top = math.max(top, head.priority) end
  end
  for _, entry in ipairs(found) do
    for _, head in ipairs(entry.heads) do
      head.level = math.min(top, head.priority + math.floor(math.max(0, now - head.created) / ageing_ms))
    end
  end
  return top
end

local function turn_of(entry, level)  -- the head whose turn it is in this lane, or nil when none is of this level; and since when one waits
  local best, since
  local run = costs(entry.lane)
  local several = #entry.heads > 1
  for _, head in ipairs(entry.heads) do
    if head.level >= level then
      since = math.min(since or head.created, head.created)
      head.share = several and share_of(head.owner, run) or 0
      if not best or head.share < best.share or (head.share == best.share and head.order < best.order) then best = head end
    end
  end
  return best, since
end

local function longer(a, b)  -- a goes before b: nobody serves it, then the longer backlog for each who does, then the older
  if not b then return true end
  if (a.servers == 0) ~= (b.servers == 0) then return a.servers == 0 end
  local left, right = a.waiting / math.max(1, a.servers), b.waiting / math.max(1, b.servers)
  if left ~= right then return left > right end
  return a.head.order < b.head.order
end

local function overdue_ms()
  local everybody = math.max(1, redis.call('ZCOUNT', agents, now, '+inf'))
  local run_of_all = tonumber(redis.pcall('HGET', stats_prefix .. 'all', 'run')) or 1000
  -- It grows with the backlog: a fixed bound turns a burst into first in, first out, with a load for each task.
  return math.max(60000, 3 * redis.call('ZCARD', queue) * run_of_all / everybody)
end

local function by_lane(found, capacity, paid, ageing_ms)
  local top = raise(found, ageing_ms)
  local overdue_after = overdue_ms()
  local warm, cold, overdue
  for _, entry in ipairs(found) do
    local head, since = turn_of(entry, top)
    if head then
      entry.head, entry.since = head, since
      local worth
      worth, entry.servers = worth_a_load(entry.lane, entry.waiting)
      if entry.place > 0 and entry.place <= capacity then
        local _, load = costs(entry.lane)
        if entry.place == 1 and paid < load then return entry, head end
        if longer(entry, warm) then warm = entry end
      else
        if now - since > overdue_after * (entry.servers == 0 and 1 or 2) and (not overdue or since < overdue.since) then overdue = entry end
        if worth and longer(entry, cold) then cold = entry end
      end
    end
  end
  local best = overdue or warm or cold
  if best then return best, best.head end
end
