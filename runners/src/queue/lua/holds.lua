-- The jobs that a worker holds, as Redis believes. Changes nothing.
-- ARGV: worker. Gives {id, token, ...}.
local active, reply = call('HGETALL', base .. ':active'), {}
for i = 1, #active, 2 do
  if active[i + 1] == ARGV[1] then
    reply[#reply + 1] = active[i]
    reply[#reply + 1] = call('HGET', job_key(active[i]), 'token') or ''
  end
end
return reply
