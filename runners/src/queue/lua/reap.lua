-- The lease of a worker lapsed: its jobs are delivered again, or end.
-- ARGV: worker, the counter at which it stood still ('' = it has none, '*' = the worker itself asks), why,
--       then ids of jobs that are not meant, because the asking worker holds them.
-- Gives {id, what became of it, ...}, or {} if the worker moved meanwhile.
local worker, beat, why = ARGV[1], ARGV[2], ARGV[3]
if beat ~= '*' and (call('HGET', base .. ':worker:' .. worker, 'beat') or '') ~= beat then return {} end
local held = {}
for i = 4, #ARGV do held[ARGV[i]] = true end
local active, reply, back = call('HGETALL', base .. ':active'), {}, false
for i = 1, #active, 2 do
  local id = active[i]
  if active[i + 1] == worker and not held[id] then
    local became = lapse(id, why)
    reply[#reply + 1] = id
    reply[#reply + 1] = became
    back = back or became == 'queued'
  end
end
conclude_all()
if back then hint() end
return reply
