-- Marks claimed jobs as running, before they are executed.
-- ARGV: worker, then (id, token, idempotent: '1' or '') per job.
-- Gives {now, attempt or 0...}: 0 means that the job is no longer the worker's (cancelled, or its lease lapsed, or it expired: Redis may
-- have been away for long since the claim).
local worker, reply = ARGV[1], { now }
for i = 2, #ARGV, 3 do
  local id, token = ARGV[i], ARGV[i + 1]
  local key = job_key(id)
  local job = call('HMGET', key, 'status', 'worker', 'token', 'attempt', 'run_until', 'batch')
  local attempt = tonumber(job[4] or '0')
  if job[2] ~= worker or job[3] ~= token then
    attempt = 0
  elseif job[1] == 'queued' and tonumber(job[5]) <= now then
    call('HDEL', base .. ':active', id)
    conclude(id, job[6], 'expired', now)
    attempt = 0
  elseif job[1] == 'queued' then
    attempt = attempt + 1
    call('HSET', key, 'status', 'running', 'attempt', attempt, 'started', now)
    if ARGV[i + 2] == '1' then call('HSET', key, 'idempotent', '1') end
  elseif job[1] ~= 'running' then
    attempt = 0
  end
  -- running with this very token: the reply of an earlier call was lost
  reply[#reply + 1] = attempt
end
conclude_all()
return reply
