-- The lease of a worker lapsed: its jobs are delivered again, or end.
-- ARGV: worker, the counter at which it stood still ('' = it has none), why.
-- Gives {id, what became of it, ...}, or {} if the worker moved meanwhile.
local worker, beat, why = ARGV[1], ARGV[2], ARGV[3]
if (call('HGET', base .. ':worker:' .. worker, 'beat') or '') ~= beat then return {} end
local active, reply, back = call('HGETALL', base .. ':active'), {}, false
for i = 1, #active, 2 do
  if active[i + 1] == worker then
    local became = lapse(active[i], why)
    reply[#reply + 1] = active[i]
    reply[#reply + 1] = became
    back = back or became == 'queued'
  end
end
conclude_all()
if back then hint() end
return reply
