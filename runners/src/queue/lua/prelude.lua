-- Put before every script. KEYS[1] is the base of all keys of one runner kind, horus:{<runner>}: the hash tag keeps them in one slot of a
-- cluster. A script runs whole or not at all, so the steps below need no order among themselves to survive a kill.
local base = KEYS[1]
local kind = string.match(base, '{(.*)}')
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Ids are remembered this long past run_until, so that a signed batch cannot be replayed.
local REMEMBER_MS = 3600000
-- A job is delivered at most this often: once, and three times again.
local MAX_DELIVERIES = 4
-- Lua's stack bounds how many values unpack() may give at once.
local CHUNK = 2000

local FINAL = { succeeded = true, failed = true, cancelled = true, timed_out = true, lost = true, expired = true }
local PRIORITIES = { 'high', 'normal', 'low' }

local function job_key(id) return base .. ':job:' .. id end
local function pending_key(priority) return base .. ':pending:' .. (priority or 'normal') end

-- Calls command(key, value...) with as many values at a time as Lua can pass.
local function call_many(command, key, values)
  for first = 1, #values, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function pending_count()
  return call('ZCARD', base .. ':pending:high') + call('ZCARD', base .. ':pending:normal') + call('ZCARD', base .. ':pending:low')
end

-- A waiting runner is woken by the one element of `wake`; it puts it back while jobs are left.
local function hint()
  if call('EXISTS', base .. ':wake') == 0 then call('RPUSH', base .. ':wake', '1') end
end

local function error_json(code, message) return cjson.encode({ code = code, message = message }) end

-- A line of the system in a job's log.
local function note(id, text)
  call('XADD', base .. ':log:' .. id, '*', 's', 'system', 'at', now, 't', text)
end

-- Puts a job into the queue of its priority, at the place that its age gives it.
local function enqueue(id, priority, run_until)
  local seq = call('ZSCORE', base .. ':jobs', id) or call('INCR', base .. ':seq')
  call('ZADD', pending_key(priority), seq, id)
  call('ZADD', base .. ':expiry', run_until, id)
end

local function held_document(name) return call('HMGET', base .. ':' .. name, 'signer', 'refs', 'until') end

-- A workflow that two keys have signed belongs to the one whose envelope lies here: its jobs would run as that one's.
local function is_of_another(held, signer) return signer ~= '' and held[1] and held[1] ~= signer end

-- Has a document until `keep` (ms) at least. `held` is what held_document() gave.
local function keep_document(name, signer, text, keep, held)
  local key, present = base .. ':' .. name, held[2]
  if not present then
    call('HSET', key, 'envelope', text, 'refs', 0)
    if signer ~= '' then call('HSET', key, 'signer', signer) end
  end
  if keep > tonumber(held[3] or '0') then
    call('HSET', key, 'until', keep)
    -- Receipts of jobs that are kept here have no expiry as long as one of them is.
    if not present or call('PTTL', key) >= 0 then call('PEXPIREAT', key, keep) end
  end
end

local concluded, released = {}, {}

-- Gives a job its final status; conclude_all() must follow before the script ends.
local function conclude(id, batch, status, finished, ...)
  call('HSET', job_key(id), 'status', status, 'finished', finished, ...)
  concluded[#concluded + 1] = id
  if batch then released[batch] = (released[batch] or 0) + 1 end
end

-- Indexes what was concluded, lets go of batches that no unfinished job needs, and tells who waits for results: `told`, if given, goes
-- along with the ids.
local function conclude_all(told)
  if #concluded == 0 then return end
  local scored = {}
  for i, id in ipairs(concluded) do
    scored[2 * i - 1] = now
    scored[2 * i] = id
  end
  call_many('ZADD', base .. ':done', scored)
  for batch, count in pairs(released) do
    local key = base .. ':batch:' .. batch
    if call('HINCRBY', key, 'refs', -count) <= 0 then call('UNLINK', key) end
  end
  call('PUBLISH', 'horus:finished', kind .. ' ' .. table.concat(concluded, ' ') .. (told or ''))
end

-- What becomes of a job whose runner is gone. `why` is told in its log.
local function lapse(id, why)
  local job = call('HMGET', job_key(id), 'status', 'priority', 'batch', 'run_until', 'deliveries', 'idempotent', 'cancel')
  local status, priority, batch, run_until = job[1], job[2], job[3], tonumber(job[4])
  local deliveries = tonumber(job[5] or '1')
  call('HDEL', base .. ':active', id)
  if status ~= 'queued' and status ~= 'running' then return 'none' end
  local started = status == 'running'
  if job[7] then
    note(id, why .. '; it had been cancelled')
    conclude(id, batch, 'cancelled', now)
    return 'cancelled'
  elseif started and job[6] ~= '1' then
    local message = why .. ' while it executed the job: what the job did is unknown, and it is not declared idempotent'
    note(id, message)
    conclude(id, batch, 'lost', now, 'error', error_json('LEASE_LAPSED', message))
    return 'lost'
  elseif deliveries >= MAX_DELIVERIES then
    local message = why .. '; the job was delivered ' .. deliveries .. ' times'
    note(id, message .. ' and is given up')
    if started then
      conclude(id, batch, 'lost', now, 'error', error_json('LEASE_LAPSED', message .. ' and never finished'))
      return 'lost'
    end
    conclude(id, batch, 'failed', now, 'error', error_json('NOT_DELIVERED', message .. ' and never started'))
    return 'failed'
  end
  call('HSET', job_key(id), 'status', 'queued')
  call('HDEL', job_key(id), 'worker', 'token', 'started')
  enqueue(id, priority, run_until)
  note(id, why .. (started and ' while it executed the job' or ' before it started the job') .. '; delivered again (' .. deliveries .. ' of ' .. (MAX_DELIVERIES - 1) .. ')')
  return 'queued'
end

-- Forgets a finished job. Until its signed batch can no longer be replayed a stub with its id and digest stays.
local function forget(id)
  local key = job_key(id)
  local job = call('HMGET', key, 'spec', 'status', 'submitter', 'run_until', 'receipt')
  call('UNLINK', base .. ':log:' .. id)
  call('ZREM', base .. ':done', id)
  call('ZREM', base .. ':jobs', id)
  call('UNLINK', key)
  if job[5] then
    local receipts = base .. ':rc:' .. job[5]
    if call('HINCRBY', receipts, 'refs', -1) <= 0 then
      local keep = tonumber(call('HGET', receipts, 'until') or '0')
      if keep > now then call('PEXPIREAT', receipts, keep) else call('UNLINK', receipts) end
    end
  end
  if not job[1] then return end
  local remember = tonumber(job[4] or '0') + REMEMBER_MS
  if remember > now then
    call('HSET', key, 'spec', job[1], 'status', job[2], 'submitter', job[3], 'deleted', '1')
    call('PEXPIREAT', key, remember)
  end
end
