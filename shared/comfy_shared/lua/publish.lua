-- publish: keep a workflow as the next version of its name, unless a version with the same content is there already.
-- KEYS: clock workflows workflow workflow_files events
-- ARGV: name digest base content about activate from_files versions_limit workflows_limit
-- USES: time news standing
-- Input: `base` is the number of the version that the changes in `about` are against, 0: none; with `from_files` the content comes from
-- files, and the same files as last time change nothing, whatever was published, activated or deleted since.
-- Replies: {published, number} | {activated, number} | {unchanged, number} | {moved, newest} | {full}
local at = standing(name)
local files = from_files == '1'
if files and redis.call('HGET', workflow_files, name) == digest then return {'unchanged', at and at.active or 0} end

local function done(word, number)
  if files then redis.call('HSET', workflow_files, name, digest) end
  return {word, number}
end

local known = at and tonumber(redis.pcall('HGET', workflow, 'digest:' .. digest))
if known then
  if known == at.active or activate ~= '1' then return done('unchanged', known) end
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
at.newest = number
if activate == '1' or at.active == 0 then make_active(name, at, number) else stand(name, at) end
local old = number - tonumber(versions_limit)
if old > 0 and old ~= at.active and old ~= at.canary then
  local line = redis.call('HGET', workflow, 'about:' .. old) or ''
  redis.call('HDEL', workflow, 'content:' .. old, 'about:' .. old, 'digest:' .. (line:match('^%d+ (%x+) ') or ''))
end
news(name)
return done('published', number)
