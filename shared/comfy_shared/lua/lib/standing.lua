-- NEEDS: workflows workflow
-- A workflow's standing is its field in the hash of all: "active newest canary share born" (numbers of versions, 0: none; percent; ms). Its
-- versions are fields of a hash of its own: content:N, about:N ("time digest JSON") and digest:DIGEST, which holds N. What was kept before there were
-- versions (a digest, and the content as a string) becomes version 1.
local function stand(name, at)
  redis.call('HSET', workflows, name, string.format('%.0f %.0f %.0f %.0f %.0f', at.active, at.newest, at.canary, at.share, at.born))
end

local function keep_version(number, digest, content, about)
  local line = string.format('%.0f ', now) .. digest .. ' ' .. about
  redis.call('HSET', workflow, 'content:' .. number, content, 'about:' .. number, line, 'digest:' .. digest, number)
end

local function standing(name)
  local value = redis.call('HGET', workflows, name) or ''
  local active, newest, canary, share, born = value:match('^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  if active then
    return {
      active = tonumber(active), newest = tonumber(newest), canary = tonumber(canary), share = tonumber(share), born = tonumber(born),
    }
  end
  local content = #value == 64 and redis.pcall('GET', workflow)
  if type(content) ~= 'string' then return nil end
  redis.call('DEL', workflow)
  keep_version(1, value, 'j' .. content, '{"author":"","note":"published before there were versions"}')
  local at = {active = 1, newest = 1, canary = 0, share = 0, born = now}
  stand(name, at)
  return at
end

local function make_active(name, at, number)
  at.active = number
  if at.canary == number then at.canary, at.share = 0, 0 end
  stand(name, at)
end
