-- publish: keep a workflow as the next version of its name, unless a version with the same content is there already.
-- KEYS: clock workflows workflow workflow_files workflow_saves events
-- ARGV: name digest base content about activate files agent saved versions_limit workflows_limit
-- USES: offset time news standing saves
-- Input: `base` is the number of the version that the changes in `about` are against, 0: none. `files`, when not empty, is the digest of the files that
-- the content comes from: the same files as last time change nothing, whatever was published, activated or deleted since. `agent`, when not empty, is
-- the one whose instance's editor saved it, and `saved` the digest of that file, which is treated alike; a conflict is kept, but not made active.
-- Replies: {published, number, active} | {activated, number, active} | {unchanged, number, active} | {conflict, number, active} | {moved, newest} | {full}
local at = standing(name)
local save = agent ~= '' and last_save(agent, name, at)
local active = at and at.active or 0
if files ~= '' and redis.call('HGET', workflow_files, name) == files then return {'unchanged', active, active} end
if save and save.digest == saved then return {'unchanged', active, active} end
local conflict = save and at and conflicts(save, agent, at.active)

local function done(word, number)
  if files ~= '' then redis.call('HSET', workflow_files, name, files) end
  if save then keep_save(agent, name, saved, at.born, conflict and number ~= at.active and save.base or number) end
  return {word, number, at.active}
end

local known = at and tonumber(redis.pcall('HGET', workflow, 'digest:' .. digest))
if known then
  if known == at.active or activate ~= '1' then return done('unchanged', known) end
  if conflict then return done('conflict', known) end
  make_active(name, at, known)
  news(name)
  return done('activated', known)
end
if not at then
  if redis.call('HEXISTS', workflows, name) == 0 and redis.call('HLEN', workflows) >= tonumber(workflows_limit) then return {'full'} end
  at = {active = 0, newest = 0, canary = 0, share = 0, born = now}
end
if at.newest ~= tonumber(base) then return {'moved', at.newest} end
if at.newest == 0 or redis.call('TYPE', workflow).ok ~= 'hash' then redis.call('DEL', workflow) end  -- leftovers, or broken bytes
local number = at.newest + 1
keep_version(number, digest, content, about)
if save then redis.call('HSET', workflow, 'editor:' .. number, agent) end
at.newest = number
if (activate == '1' and not conflict) or at.active == 0 then make_active(name, at, number) else stand(name, at) end
local old = number - tonumber(versions_limit)
if old > 0 and old ~= at.active and old ~= at.canary then
  local line = redis.call('HGET', workflow, 'about:' .. old) or ''
  redis.call('HDEL', workflow, 'content:' .. old, 'about:' .. old, 'editor:' .. old, 'digest:' .. (line:match('^%d+ (%x+) ') or ''))
end
news(name)
return done(conflict and 'conflict' or 'published', number)
