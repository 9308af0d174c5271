-- A worker lives: raises its counter, and learns which of its jobs it must stop.
-- ARGV: worker, number of facts, (field, value)..., then (id, token) per job that it holds.
-- Gives one number per job: 0 go on, 1 cancel was asked for, 2 no longer the worker's.
local worker, facts = ARGV[1], tonumber(ARGV[2])
local key = base .. ':worker:' .. worker
call('HSET', key, 'seen', now, unpack(ARGV, 3, 2 + 2 * facts))
call('HINCRBY', key, 'beat', 1)
call('SADD', base .. ':workers', worker)
local reply = {}
for i = 3 + 2 * facts, #ARGV, 2 do
  local job = call('HMGET', job_key(ARGV[i]), 'worker', 'token', 'cancel', 'status')
  if job[1] ~= worker or job[2] ~= ARGV[i + 1] or (job[4] ~= 'running' and job[4] ~= 'queued') then
    reply[#reply + 1] = 2
  else
    reply[#reply + 1] = job[3] and 1 or 0
  end
end
return reply
