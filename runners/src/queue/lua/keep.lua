-- Stores documents ahead of the jobs that will refer to them.
-- ARGV: keep them for (ms), then ('wf' or 'rc', digest, signer or '', envelope) each.
-- A workflow that lies here by another signer is left as it is: what is pushed for it will be told so.
local keep = now + tonumber(ARGV[1])
for i = 2, #ARGV, 4 do
  local name, signer = ARGV[i] .. ':' .. ARGV[i + 1], ARGV[i + 2]
  local held = held_document(name)
  if not is_of_another(held, signer) then keep_document(name, signer, ARGV[i + 3], keep, held) end
end
return 'OK'
