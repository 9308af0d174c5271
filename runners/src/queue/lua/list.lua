-- A page of jobs, newest first. Changes nothing.
-- ARGV: sequence number below which to look ('+inf' = from the newest), limit, how many to look at, status or '', submitter or '', fields...
-- Gives {where to go on or '', {seq, id, fields...}...}.
local from, limit, look, status, submitter = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local members = call('ZRANGE', base .. ':jobs', from == '+inf' and '+inf' or '(' .. from, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, look, 'WITHSCORES')
local reply, last = { '' }, nil
for i = 1, #members, 2 do
  local id, seq = members[i], members[i + 1]
  local key = job_key(id)
  local job = call('HMGET', key, 'status', 'submitter')
  if (status == '' or job[1] == status) and (submitter == '' or job[2] == submitter) then
    reply[#reply + 1] = { seq, id, call('HMGET', key, unpack(ARGV, 6)) }
  end
  last = seq
  if #reply > limit then
    reply[1] = i + 1 < #members and last or (#members == 2 * look and last or '')
    return reply
  end
end
if #members == 2 * look then reply[1] = last end
return reply
