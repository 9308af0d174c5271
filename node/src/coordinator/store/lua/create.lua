-- KEYS: meta, envelope, journal. ARGV: digest, submitter, name, created_at, run_until, steps, owner, coordinators,
-- envelope. Returns {created, digest, submitter, status} of the workflow that has the id.
local known = redis.call('HMGET', KEYS[1], 'digest', 'submitter', 'status')
if known[1] then return {0, known[1], known[2], known[3]} end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'submitter', ARGV[2], 'name', ARGV[3], 'created_at', ARGV[4],
  'run_until', ARGV[5], 'steps', ARGV[6], 'owner', ARGV[7], 'coordinators', ARGV[8],
  'epoch', 1, 'sequence', 0, 'status', 'pending')
redis.call('SET', KEYS[2], ARGV[9])
redis.call('DEL', KEYS[3])
return {1, ARGV[1], ARGV[2], 'pending'}
