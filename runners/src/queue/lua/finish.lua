-- Stores what came of jobs, if the worker still holds them.
-- ARGV: worker, digest of the receipts, receipts envelope, then 7 per job: id, token, status, finished (ms), output or '', error or '', index.
-- Gives one number per job: 1 stored (now, or by an earlier call whose reply was lost), 0 refused.
local worker, digest, envelope = ARGV[1], ARGV[2], ARGV[3]
local reply, refs, done = {}, 0, {}
-- Who waits for results gets them with the hint, as length:bytes each, unless they are many or long: then they are read.
local MOST_TOLD = 65536
local told, size = { '\n' }, #envelope
local function tell(text)
  told[#told + 1] = #text .. ':' .. text
  size = size + #text + 8
end
tell(envelope)
for i = 4, #ARGV, 7 do
  local id, token, status = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = job_key(id)
  local job = call('HMGET', key, 'status', 'worker', 'token', 'batch', 'receipt')
  local mine = job[2] == worker and job[3] == token
  if mine and (job[1] == 'running' or (job[1] == 'queued' and status == 'failed')) then
    local fields = { 'receipt', digest, 'receipt_index', ARGV[i + 6] }
    if ARGV[i + 4] ~= '' then
      fields[#fields + 1] = 'output'
      fields[#fields + 1] = ARGV[i + 4]
    end
    if ARGV[i + 5] ~= '' then
      fields[#fields + 1] = 'error'
      fields[#fields + 1] = ARGV[i + 5]
    end
    conclude(id, job[4], status, ARGV[i + 3], unpack(fields))
    if size + #ARGV[i + 4] + #ARGV[i + 5] <= MOST_TOLD then
      tell(status)
      tell(ARGV[i + 4])
      tell(ARGV[i + 5])
      tell(ARGV[i + 6])
    else
      size = MOST_TOLD
    end
    done[#done + 1] = id
    refs = refs + 1
    reply[#reply + 1] = 1
  elseif mine and job[5] == digest then
    reply[#reply + 1] = 1
  else
    if job[1] and job[4] then
      note(id, 'a late result of worker ' .. worker .. ' (' .. status .. ', token ' .. token .. ') was refused: the job is no longer its own')
    end
    reply[#reply + 1] = 0
  end
end
if refs > 0 then
  local key = base .. ':rc:' .. digest
  call('HSET', key, 'envelope', envelope)
  call('HINCRBY', key, 'refs', refs)
  call('PERSIST', key)
  call_many('HDEL', base .. ':active', done)
end
conclude_all(size < MOST_TOLD and table.concat(told) or '')
return reply
