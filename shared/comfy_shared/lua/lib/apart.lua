-- NEEDS: agents task_prefix vram verdicts_prefix
-- Whether a task must be kept from an agent for now: it just failed there and others are alive, or it ran out of memory on one as small
-- and a roomier one is alive.
local function alive(agent)
  local until_ms = redis.call('ZSCORE', agents, agent)
  return until_ms and tonumber(until_ms) >= now
end

local function apart(agent, lane, avoid, avoid_until, more_vram)
  if not avoid and not more_vram then return false end  -- nearly all tasks

  local function alone()
    return redis.call('ZCOUNT', agents, now, '+inf') <= 1
  end

  local function roomier(bytes)
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', vram, '(' .. bytes, '+inf', 'LIMIT', 0, 16)) do
      if alive(other) and redis.pcall('HGET', verdicts_prefix .. other, lane) ~= '0' then return true end
    end
    return false
  end

  if avoid == agent and now < (tonumber(avoid_until) or 0) and not alone() then return true end
  if not tonumber(more_vram) then return false end
  return (tonumber(redis.call('ZSCORE', vram, agent)) or 0) <= tonumber(more_vram) and roomier(more_vram)
end
