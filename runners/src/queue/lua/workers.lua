-- The registered workers and the depth of the queue. Changes nothing.
-- Gives {now, pending, delayed, active, {worker, fields and values...}...}.
local reply = { now, pending_count(), call('ZCARD', base .. ':delayed'), call('HLEN', base .. ':active') }
for _, worker in ipairs(call('SMEMBERS', base .. ':workers')) do
  reply[#reply + 1] = { worker, call('HGETALL', base .. ':worker:' .. worker) }
end
return reply
