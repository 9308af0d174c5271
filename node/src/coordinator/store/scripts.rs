//! What must happen at once in Redis, in Lua. Every script that writes to a workflow checks the writer and its epoch: a
//! coordinator that lost the workflow, however late it wakes up, writes nothing. Both, because a Redis that has lost its last
//! second may give an epoch out twice.

use std::sync::LazyLock;

use redis::Script;

/// KEYS: meta, envelope, journal. ARGV: digest, submitter, name, created_at, run_until, steps, owner, coordinators,
/// envelope. Returns `{created, digest, submitter, status}` of the workflow that has the id.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local known = redis.call('HMGET', KEYS[1], 'digest', 'submitter', 'status')
if known[1] then return {0, known[1], known[2], known[3]} end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'submitter', ARGV[2], 'name', ARGV[3], 'created_at', ARGV[4],
  'run_until', ARGV[5], 'steps', ARGV[6], 'owner', ARGV[7], 'coordinators', ARGV[8],
  'epoch', 1, 'sequence', 0, 'status', 'pending')
redis.call('SET', KEYS[2], ARGV[9])
redis.call('DEL', KEYS[3])
return {1, ARGV[1], ARGV[2], 'pending'}
",
    )
});

/// KEYS: meta, journal, outputs, receipts. ARGV: owner and epoch, sequence before, sequence after, status, finished_at or empty, n
/// records, the records, n outputs, their digests and texts, n receipts, their digests and texts. Returns OK, DONE (this very
/// append was made before: its answer was lost), FENCED, GAP or GONE.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
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
",
    )
});

/// KEYS: meta, snapshot, journal. ARGV: owner and epoch, sequence, snapshot. The journal is covered by the snapshot and goes.
pub(super) static SNAPSHOT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local known = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'owner')
if not known[1] then return 'GONE' end
if known[3] .. ' ' .. known[1] ~= ARGV[1] then return 'FENCED' end
if known[2] ~= ARGV[2] then return 'GAP' end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[3])
return 'OK'
",
    )
});

/// KEYS: meta. ARGV: the owner and epoch that were seen, the new owner. Returns the new epoch, or nothing if somebody was
/// faster.
pub(super) static TAKE_OVER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local known = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'owner', ARGV[3])
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
",
    )
});
