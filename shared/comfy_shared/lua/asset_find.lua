-- asset_find: what an owner uploaded, if its file is still there; both are kept for another retention.
-- KEYS: clock inputs asset
-- ARGV: retention_ms
-- USES: offset time
-- Replies: {record, created, expires} | {}
local kept = redis.pcall('HMGET', asset, 'sha256', 'record', 'created')
if not (kept[1] and kept[2] and kept[3]) or not redis.call('ZSCORE', inputs, kept[1]) then return {} end
redis.call('ZADD', inputs, 'XX', now, kept[1])
redis.call('PEXPIRE', asset, retention_ms)
return {kept[2], tonumber(kept[3]), now + tonumber(retention_ms)}
