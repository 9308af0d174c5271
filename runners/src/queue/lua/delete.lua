-- Forgets finished jobs. ARGV: ids. Gives one number per job: 1 deleted, 0 unknown, 2 not finished.
local reply = {}
for i = 1, #ARGV do
  local job = call('HMGET', job_key(ARGV[i]), 'status', 'deleted')
  if not job[1] or job[2] then
    reply[i] = 0
  elseif not FINAL[job[1]] then
    reply[i] = 2
  else
    forget(ARGV[i])
    reply[i] = 1
  end
end
return reply
