-- asset_keep: remember what an owner uploaded, or find that it had the same bytes before.
-- KEYS: clock inputs asset
-- ARGV: sha256 record retention_ms
-- USES: offset time
-- Replies: {new, record, created, expires} | {known, record, created, expires}
local kept = redis.pcall('HMGET', asset, 'sha256', 'record', 'created')
local known = kept[1] == sha256 and kept[2] and kept[3]
if not known then
  redis.call('DEL', asset)
  kept = {sha256, record, now}
  redis.call('HSET', asset, 'sha256', sha256, 'record', record, 'created', now)
end
redis.call('PEXPIRE', asset, retention_ms)
redis.call('ZADD', inputs, now, sha256)
return {known and 'known' or 'new', kept[2], tonumber(kept[3]), now + tonumber(retention_ms)}
