-- KEYS: meta, snapshot, journal. ARGV: owner and epoch, sequence, snapshot. The journal is covered by the snapshot and goes.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'owner')
if not known[1] then return 'GONE' end
if known[3] .. ' ' .. known[1] ~= ARGV[1] then return 'FENCED' end
if known[2] ~= ARGV[2] then return 'GAP' end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[3])
return 'OK'
