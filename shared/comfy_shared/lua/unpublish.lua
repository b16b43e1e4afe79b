-- unpublish: delete a workflow with all its versions, unless tasks that wait or run use it.
-- KEYS: clock workflows workflow index_prefix events
-- ARGV: name force
-- USES: offset time news
-- Replies: {gone} | {unknown} | {used, number}
if redis.call('HEXISTS', workflows, name) == 0 then return {'unknown'} end

local function both(one, other)  -- how many members two sets share; walks the smaller one
  if redis.call('ZCARD', one) > redis.call('ZCARD', other) then one, other = other, one end
  local number, start = 0, 0
  while true do
    local members = redis.call('ZRANGE', one, start, start + 999)
    if #members == 0 then return number end
    for _, score in ipairs(redis.call('ZMSCORE', other, unpack(members))) do
      if score then number = number + 1 end
    end
    start = start + 1000
  end
end

if force ~= '1' then
  local mine = index_prefix .. 'workflow:' .. name
  local used = both(index_prefix .. 'status:open', mine)
  if used > 0 then return {'used', used} end
end
redis.call('HDEL', workflows, name)
redis.call('DEL', workflow)
news(name)
return {'gone'}
