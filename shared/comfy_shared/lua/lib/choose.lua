-- NEEDS: queue lane_prefix agents servers_prefix stats_prefix usage working waiting
-- Which of the waiting tasks the agent takes. A lane is {lane, place, heads}; place is its place in the instance's memory or 0, and
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

local function raise(found, ageing_ms)  -- gives every head its level; returns the levels, the one that goes first at first
  local top = 0
  for _, entry in ipairs(found) do
    for _, head in ipairs(entry.heads) do top = math.max(top, head.priority) end
  end
  local there, levels = {}, {}
  for _, entry in ipairs(found) do
    for _, head in ipairs(entry.heads) do
      head.level = math.min(top, head.priority + math.floor(math.max(0, now - head.created) / ageing_ms))
      there[head.level] = true
    end
  end
  for level = top, 0, -1 do
    if there[level] then levels[#levels + 1] = level end
  end
  return levels
end

local function turn_of(entry, level)  -- the head whose turn it is in this lane, or nil when none is of this level; and since when one waits
  local best, since
  local several = #entry.heads > 1
  local run = several and costs(entry.lane)
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

local function patience_of(owner)  -- ms after which a lane with a task of his is overdue
  local everybody = math.max(1, redis.call('ZCOUNT', agents, now, '+inf'))
  local run_of_all = tonumber(redis.pcall('HGET', stats_prefix .. 'all', 'run')) or 1000
  local backlog = queue_length()
  keep_counts()
  local number = redis.call('HLEN', waiting)
  -- It grows with the backlog: a fixed bound turns a burst into first in, first out, with a load for each task. Of the others' backlog only as
  -- much counts as the owner has himself, so that nobody waits longer because another one floods the queue.
  if number > 1 and number <= 64 then
    local own = tonumber(redis.call('HGET', waiting, owner)) or 0
    backlog = 0
    for _, his in ipairs(redis.call('HVALS', waiting)) do backlog = backlog + math.min(tonumber(his) or 0, own) end
  end
  return math.max(60000, 3 * backlog * run_of_all / everybody)
end

local function may_leave(warm, cold)  -- others serve this lane well enough, and nobody that one, whose backlog is worth the load
  if cold.servers > 0 or warm.servers < 2 then return false end
  local run, load = costs(warm.lane)
  local cold_run, cold_load = costs(cold.lane)
  return cold.waiting * cold_run > cold_load and warm.waiting * run / (warm.servers - 1) < 2 * load
end

local function staying(found, level, paid)  -- the lane of the last run, when it has yet to pay for its load or is the only one
  for _, entry in ipairs(found) do
    entry.head, entry.since = turn_of(entry, level)
    if entry.head and entry.place == 1 and (#found == 1 or paid < select(2, costs(entry.lane))) then return entry end
  end
end

local function best_of(found, capacity, patience)
  local warm, cold, overdue
  for _, entry in ipairs(found) do
    local head, since = entry.head, entry.since
    if head then
      if entry.place > 0 and entry.place <= capacity then
        entry.waiting = redis.call('ZCARD', lane_prefix .. entry.lane)
        entry.servers = redis.call('SCARD', servers_prefix .. entry.lane)
        if longer(entry, warm) then warm = entry end
      else
        entry.waiting = redis.call('ZCARD', lane_prefix .. entry.lane)
        local worth
        worth, entry.servers = worth_a_load(entry.lane, entry.waiting)
        local waited = now - since  -- 60 s at least, whoever it is
        if waited > 60000 and not patience[head.owner] then patience[head.owner] = patience_of(head.owner) end
        if waited > 60000 and waited > patience[head.owner] * (entry.servers == 0 and 1 or 2) and (not overdue or since < overdue.since) then overdue = entry end
        if worth and longer(entry, cold) then cold = entry end
      end
    end
  end
  if warm and cold and may_leave(warm, cold) then warm = nil end
  return overdue or warm or cold
end

local function choose_among(found, capacity, paid, ageing_ms)  -- rare: while one owner has one lane there is nothing to choose
  if how == 'fifo' then return in_order(found) end
  local patience = {}
  for _, level in ipairs(raise(found, ageing_ms)) do
    -- What is more urgent and yet not taken will be sooner on an agent that has it in memory: meanwhile there is other work.
    local best = staying(found, level, paid) or best_of(found, capacity, patience)
    if best then return best, best.head end
  end
end

local function choose(found, capacity, paid, ageing_ms)
  if #found == 0 then return end
  if #found == 1 and (found[1].place == 1 or how == 'fifo') and #found[1].heads == 1 then return found[1], found[1].heads[1] end
  return choose_among(found, capacity, paid, ageing_ms)
end
