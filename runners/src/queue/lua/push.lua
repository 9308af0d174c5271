-- Accepts the jobs of one batch for one runner kind: all, or none.
-- ARGV: max_queue, batch digest, batch envelope, keep documents until (ms),
--       number of documents, then ('wf' or 'rc', digest, signer or '', envelope or '') each,
--       then 12 per job: id, spec, submitter, index, priority, idempotent, not_before, run_until, delegate, step, labels,
--       other coordinators that the workflow names ('' = none).
-- A document is named with its text, or without if it is believed to be here.
-- Gives {'ok', status, created, ...} | {'conflict', index} | {'full', queued} | {'signer', digest} | {'missing', 'wf:<digest>', ...}.
local max_queue, digest, envelope, keep = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local documents = tonumber(ARGV[5])
local first = 6 + 4 * documents
local PER_JOB = 12

local known, new = {}, 0
for i = first, #ARGV, PER_JOB do
  local id, spec, submitter = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local job = known[id] or call('HMGET', job_key(id), 'spec', 'submitter', 'status')
  if not job[1] then
    new = new + 1
    known[id] = { spec, submitter, false }
  elseif job[1] ~= spec or job[2] ~= submitter then
    return { 'conflict', (i - first) / PER_JOB }
  else
    known[id] = job
  end
end

if new > 0 then
  -- Everything that waits, for its time or for a runner, has an entry there.
  local queued = call('ZCARD', base .. ':expiry')
  if queued + new > max_queue then return { 'full', queued } end
  local missing, needs, held = { 'missing' }, {}, {}
  for i = 6, first - 1, 4 do
    local name = ARGV[i] .. ':' .. ARGV[i + 1]
    held[i] = held_document(name)
    if is_of_another(held[i], ARGV[i + 2]) then return { 'signer', ARGV[i + 1] } end
    if ARGV[i + 3] == '' and not held[i][2] then missing[#missing + 1] = name end
    -- Claims bring along what a job needs, within reason; the runner fetches the rest.
    if #needs < 32 then needs[#needs + 1] = name end
  end
  if #missing > 1 then return missing end
  for i = 6, first - 1, 4 do
    keep_document(ARGV[i] .. ':' .. ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], keep, held[i])
  end
  local batch = base .. ':batch:' .. digest
  call('HSET', batch, 'envelope', envelope)
  if #needs > 0 then call('HSET', batch, 'needs', table.concat(needs, ' ')) end
  call('HINCRBY', batch, 'refs', new)
end

local reply, index, pending, delayed, expiry, woken = { 'ok' }, {}, {}, {}, {}, false
local seq = new > 0 and call('INCRBY', base .. ':seq', new) - new or 0
for i = first, #ARGV, PER_JOB do
  local id, priority = ARGV[i], ARGV[i + 4]
  local job = known[id]
  local created = not job[3]
  if created then
    local not_before, run_until = tonumber(ARGV[i + 6]) or 0, tonumber(ARGV[i + 7])
    local status = not_before > now and 'delayed' or 'queued'
    seq = seq + 1
    local fields = {
      'status', status, 'spec', ARGV[i + 1], 'batch', digest, 'index', ARGV[i + 3], 'submitter', ARGV[i + 2],
      'created', now, 'run_until', ARGV[i + 7],
    }
    local function optional(name, value)
      if value ~= '' then
        fields[#fields + 1] = name
        fields[#fields + 1] = value
      end
    end
    if priority ~= 'normal' then optional('priority', priority) end
    optional('idempotent', ARGV[i + 5])
    optional('not_before', ARGV[i + 6])
    optional('delegate', ARGV[i + 8])
    optional('step', ARGV[i + 9])
    optional('labels', ARGV[i + 10])
    optional('coordinators', ARGV[i + 11])
    call('HSET', job_key(id), unpack(fields))
    index[#index + 1] = seq
    index[#index + 1] = id
    expiry[#expiry + 1] = run_until
    expiry[#expiry + 1] = id
    if status == 'delayed' then
      delayed[#delayed + 1] = not_before
      delayed[#delayed + 1] = id
    else
      pending[priority] = pending[priority] or {}
      local list = pending[priority]
      list[#list + 1] = seq
      list[#list + 1] = id
      woken = true
    end
    job[3] = status
  end
  reply[#reply + 1] = job[3]
  reply[#reply + 1] = created and 1 or 0
end
call_many('ZADD', base .. ':jobs', index)
call_many('ZADD', base .. ':expiry', expiry)
call_many('ZADD', base .. ':delayed', delayed)
for priority, list in pairs(pending) do call_many('ZADD', pending_key(priority), list) end
if woken then hint() end
return reply
