-- KEYS: meta. ARGV: the owner and epoch that were seen, the new owner. Returns the new epoch, or nothing if somebody was
-- faster.
local known = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'owner', ARGV[3])
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
