-- NEEDS: clock policy
-- In place of `offset` where the policy is asked for, too: one call for both. What is no text there counts as nothing.
local offset, policy_name = unpack(redis.call('MGET', clock, policy))
