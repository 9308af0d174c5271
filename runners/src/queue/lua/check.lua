-- Would this push be accepted? Changes nothing.
-- ARGV: max_queue, then (id, spec, submitter) per job. Gives {'ok'} | {'conflict', index} | {'full', queued}.
local new, seen = 0, {}
for i = 2, #ARGV, 3 do
  local id, spec, submitter = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = seen[id] or call('HMGET', job_key(id), 'spec', 'submitter')
  if not known[1] then
    new = new + 1
    seen[id] = { spec, submitter }
  elseif known[1] ~= spec or known[2] ~= submitter then
    return { 'conflict', (i - 2) / 3 }
  end
end
if new > 0 then
  local queued = pending_count() + call('ZCARD', base .. ':delayed')
  if queued + new > tonumber(ARGV[1]) then return { 'full', queued } end
end
return { 'ok' }
