-- guess: count a wrong log-in of an address.
-- KEYS: guesses
-- ARGV: shown limit window_ms
-- Replies: {different, all, ms left}
-- What is shown again is hardly a guess: a client that goes on with an old password is not kept out at once. Above the limit nothing new is remembered.
if redis.call('EXISTS', guesses) == 0 then
  redis.call('HSET', guesses, 'all', 0)
  redis.call('PEXPIRE', guesses, window_ms)
end
local all = redis.call('HINCRBY', guesses, 'all', 1)
if redis.call('HLEN', guesses) <= tonumber(limit) + 1 then redis.call('HSET', guesses, shown, 1) end
return {redis.call('HLEN', guesses) - 1, all, redis.call('PTTL', guesses)}
