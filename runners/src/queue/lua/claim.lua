-- Takes up to `want` pending jobs for a worker, high before normal before low, each with a fencing token of its own.
-- Idempotent ones are marked as running at once: should the worker die before it executes them, they are delivered again all the same.
-- ARGV: worker, want, idempotent ('1' = all jobs of this kind are), then the digests of documents that the worker has
-- ('batch:<digest>', 'wf:<digest>', 'rc:<digest>').
-- Gives {still pending (0 = none, else some), now, {{id, token, batch, index, attempt, run_until, running}...}, {name, envelope, ...}}.
local worker, want, by_nature = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local has = {}
for i = 4, #ARGV do has[ARGV[i]] = true end

-- Delayed jobs whose time has come wait for nobody's sweep.
local due = call('ZRANGE', base .. ':delayed', '-inf', now, 'BYSCORE', 'LIMIT', 0, 256)
for _, id in ipairs(due) do
  local job = call('HMGET', job_key(id), 'priority', 'run_until')
  call('ZREM', base .. ':delayed', id)
  if job[2] then
    call('HSET', job_key(id), 'status', 'queued')
    enqueue(id, job[1], job[2])
  end
end

local claimed, documents, batches, active, gone = {}, {}, {}, {}, {}
local function bring(name)
  if has[name] then return end
  has[name] = true
  local envelope = call('HGET', base .. ':' .. name, 'envelope')
  if envelope then
    documents[#documents + 1] = name
    documents[#documents + 1] = envelope
  end
end

-- Expired jobs that are skipped are bounded too: a script must not hold up the server.
local looked, left = 0, want
for _, priority in ipairs(PRIORITIES) do
  local more = true
  while more and left > 0 and looked < want + 256 do
    local popped = call('ZPOPMIN', pending_key(priority), left)
    more = #popped == 2 * left
    for i = 1, #popped, 2 do
      local id = popped[i]
      looked = looked + 1
      local key = job_key(id)
      local job = call('HMGET', key, 'batch', 'index', 'attempt', 'run_until', 'deliveries', 'idempotent')
      gone[#gone + 1] = id
      if not job[4] then
        -- No record: whoever removed it is not this software. The doctor names such ids; here they must not stop the others.
      elseif tonumber(job[4]) <= now then
        conclude(id, job[1], 'expired', now)
      else
        left = left - 1
        local token = call('INCR', base .. ':seq')
        local attempt, deliveries = tonumber(job[3] or '0'), tonumber(job[5] or '0') + 1
        local running = by_nature or job[6] == '1'
        if running then
          call('HSET', key, 'worker', worker, 'token', token, 'deliveries', deliveries,
            'status', 'running', 'attempt', attempt + 1, 'started', now, 'idempotent', '1')
        else
          call('HSET', key, 'worker', worker, 'token', token, 'deliveries', deliveries)
        end
        active[#active + 1] = id
        active[#active + 1] = worker
        claimed[#claimed + 1] = { id, token, job[1], tonumber(job[2]), attempt, tonumber(job[4]), running and 1 or 0 }
        if not batches[job[1]] then
          batches[job[1]] = true
          if not has['batch:' .. job[1]] then
            local needs = call('HGET', base .. ':batch:' .. job[1], 'needs')
            bring('batch:' .. job[1])
            for name in string.gmatch(needs or '', '%S+') do bring(name) end
          end
        end
      end
    end
  end
end
if #gone > 0 then
  call_many('HSET', base .. ':active', active)
  call_many('ZREM', base .. ':expiry', gone)
end
conclude_all()
-- With room left after a look at all of them there are none.
local pending = (left > 0 and looked < want + 256) and 0 or pending_count()
if pending > 0 then hint() else call('DEL', base .. ':wake') end
return { pending, now, claimed, documents }
