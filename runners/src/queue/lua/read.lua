-- Fields of jobs and, for results, the receipts they point to. Changes nothing.
-- ARGV: '1' with receipts or '', number of fields, fields..., ids...
-- Gives {{{fields...} or {} if unknown...}, {digest, envelope, ...}}.
local receipts, count = ARGV[1] == '1', tonumber(ARGV[2])
local rows, documents, has = {}, {}, {}
for i = 3 + count, #ARGV do
  local key = job_key(ARGV[i])
  local known = call('HMGET', key, 'created', 'receipt')
  if known[1] then
    rows[#rows + 1] = call('HMGET', key, unpack(ARGV, 3, 2 + count))
    if receipts and known[2] and not has[known[2]] then
      has[known[2]] = true
      local envelope = call('HGET', base .. ':rc:' .. known[2], 'envelope')
      if envelope then
        documents[#documents + 1] = known[2]
        documents[#documents + 1] = envelope
      end
    end
  else
    rows[#rows + 1] = {}
  end
end
return { rows, documents }
