-- NEEDS: events
-- What no transition reads is written at the end of the command, once for all calls that share it.
local at_end = {}  -- functions

local function write(command, key, ...)  -- broken bytes there give way
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not reply.err:find('WRONGTYPE', 1, true) then error(reply) end
  redis.call('DEL', key)
  return redis.call(command, key, ...)
end

local MANY = 256  -- values of one command; Lua hands over some thousands at most

local LONG = 64  -- values of one entry: the stream is capped by the number of entries
local lines = {}  -- of the stream that every balancer tails: 'task', id, 'batch', id if any, 'line', text, and so on
local function add_lines()
  if #lines > 0 then write('XADD', events, 'MAXLEN', '~', '20000', '*', unpack(lines)) end
  lines = {}
end

local function stream(task, line)
  if #lines == 0 then at_end[#at_end + 1] = add_lines end
  local number = #lines
  lines[number + 1], lines[number + 2] = 'task', task.id
  if task.batch then
    lines[number + 3], lines[number + 4] = 'batch', task.batch
    number = number + 2
  end
  lines[number + 3], lines[number + 4] = 'line', line
  if number > LONG then add_lines() end
end

local sorted  -- key → member → its score, false to take it out
local function add_sorted()
  for key, members in pairs(sorted) do
    local add, remove = {}, {}
    local function send(least)
      if #add > least then write('ZADD', key, unpack(add)) add = {} end
      if #remove > least then write('ZREM', key, unpack(remove)) remove = {} end
    end
    for member, score in pairs(members) do
      if score then
        add[#add + 1], add[#add + 2] = score, member
      else
        remove[#remove + 1] = member
      end
      send(MANY)
    end
    send(0)
  end
end

local function index(key, member, score)
  if not sorted then
    sorted = {}
    at_end[#at_end + 1] = add_sorted
  end
  local members = sorted[key]
  if not members then
    members = {}
    sorted[key] = members
  end
  members[member] = score
end
