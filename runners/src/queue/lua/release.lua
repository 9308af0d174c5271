-- Gives jobs back that a worker claimed and will not finish.
-- ARGV: worker, why ('' = the worker was told to stop), then (id, token) per job.
-- Told to stop: jobs that did not start go back as if they had never been claimed, and so do idempotent ones that did; others stay.
-- For any other reason the job is treated as that of a dead worker, so that one which no worker can handle does not go round for ever.
-- Gives one number per job: 1 given back or ended, 0 not.
local worker, why, reply = ARGV[1], ARGV[2], {}
for i = 3, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local key = job_key(id)
  local job = call('HMGET', key, 'status', 'worker', 'token', 'priority', 'run_until', 'deliveries', 'idempotent', 'batch', 'cancel')
  local mine = job[2] == worker and job[3] == token and (job[1] == 'queued' or job[1] == 'running')
  local given = 0
  if mine and why ~= '' then
    lapse(id, why)
    given = 1
  elseif mine and (job[1] == 'queued' or job[7] == '1') then
    call('HDEL', base .. ':active', id)
    if job[9] then
      conclude(id, job[8], 'cancelled', now)
    else
      if job[1] == 'running' then note(id, 'worker ' .. worker .. ' stops; the job is idempotent and is delivered again') end
      call('HSET', key, 'status', 'queued', 'deliveries', math.max(tonumber(job[6] or '1') - 1, 0))
      call('HDEL', key, 'worker', 'token', 'started')
      enqueue(id, job[4], job[5])
    end
    given = 1
  end
  reply[#reply + 1] = given
end
conclude_all()
-- A worker that stops may have taken the hint that others wait for.
if pending_count() > 0 then hint() end
return reply
