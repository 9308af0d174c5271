-- Cancels jobs: at once if they wait; a running one when its runner has stopped it, which is told by pub/sub and by its next heartbeat.
-- ARGV: ids. Gives the status of each, '' if unknown.
local reply, asked = {}, {}
for i = 1, #ARGV do
  local id = ARGV[i]
  local key = job_key(id)
  local job = call('HMGET', key, 'status', 'batch', 'priority', 'worker', 'deleted', 'cancel')
  local status = job[1] or ''
  if job[5] then
    status = ''
  elseif status == 'running' then
    if not job[6] then
      call('HSET', key, 'cancel', now)
      note(id, 'cancel was asked for')
    end
    asked[#asked + 1] = id
  elseif status == 'queued' or status == 'delayed' then
    if status == 'delayed' then
      call('ZREM', base .. ':delayed', id)
    elseif job[4] then
      call('HDEL', base .. ':active', id)
    else
      call('ZREM', pending_key(job[3]), id)
    end
    call('ZREM', base .. ':expiry', id)
    status = 'cancelled'
    conclude(id, job[2], status, now)
  end
  reply[i] = status
end
conclude_all()
if #asked > 0 then call('PUBLISH', base .. ':cancel', table.concat(asked, ' ')) end
return reply
