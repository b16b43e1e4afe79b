-- NEEDS: clock
local offset = redis.call('GET', clock)
