-- KEYS: meta, journal, outputs, receipts. ARGV: owner and epoch, sequence before, sequence after, status, finished_at or empty, n
-- records, the records, n outputs, their digests and texts, n receipts, their digests and texts. Returns OK, DONE (this very
-- append was made before: its answer was lost), FENCED, GAP or GONE.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'owner')
if not known[1] then return 'GONE' end
if known[3] .. ' ' .. known[1] ~= ARGV[1] then return 'FENCED' end
if known[2] == ARGV[3] then return 'DONE' end
if known[2] ~= ARGV[2] then return 'GAP' end
local at = 6
local n = tonumber(ARGV[at])
for i = at + 1, at + n do redis.call('RPUSH', KEYS[2], ARGV[i]) end
at = at + n + 1
n = tonumber(ARGV[at])
for i = at + 1, at + 2 * n, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
at = at + 2 * n + 1
n = tonumber(ARGV[at])
for i = at + 1, at + 2 * n, 2 do redis.call('HSETNX', KEYS[4], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'sequence', ARGV[3], 'status', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'finished_at', ARGV[5]) end
return 'OK'
