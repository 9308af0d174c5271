-- Checks jobs against the lists. Every job is looked at whole, in one moment, so that a busy queue gives no false alarm. Changes nothing.
-- ARGV: ids. Gives {id, what is wrong, ...}.
local reply = {}
local function wrong(id, text)
  reply[#reply + 1] = id
  reply[#reply + 1] = text
end
for i = 1, #ARGV do
  local id = ARGV[i]
  local job = call('HMGET', job_key(id), 'status', 'priority', 'worker', 'token', 'batch', 'receipt', 'created', 'deleted', 'run_until', 'spec')
  local status, places = job[1], {}
  for _, priority in ipairs(PRIORITIES) do
    if call('ZSCORE', pending_key(priority), id) then places[#places + 1] = 'pending:' .. priority end
  end
  for _, name in ipairs({ 'delayed', 'done' }) do
    if call('ZSCORE', base .. ':' .. name, id) then places[#places + 1] = name end
  end
  local holder = call('HGET', base .. ':active', id)
  if holder then places[#places + 1] = 'active' end
  local indexed, expires = call('ZSCORE', base .. ':jobs', id), call('ZSCORE', base .. ':expiry', id)
  local where = table.concat(places, ' and ')
  if not job[10] then
    if where ~= '' or indexed or expires then wrong(id, 'has no record, but is in ' .. (where ~= '' and where or 'an index')) end
  elseif job[8] then
    if where ~= '' or indexed or expires then wrong(id, 'is deleted, but is in ' .. (where ~= '' and where or 'an index')) end
    if call('PTTL', job_key(id)) < 0 then wrong(id, 'is deleted, but its stub never expires') end
  else
    local expected
    if status == 'delayed' then expected = 'delayed'
    elseif status == 'queued' then expected = job[3] and 'active' or pending_key(job[2]):sub(#base + 2)
    elseif status == 'running' then expected = 'active'
    elseif FINAL[status or ''] then expected = 'done' end
    if not expected then
      wrong(id, 'has the unknown status ' .. tostring(status))
    elseif where == '' then
      wrong(id, 'is ' .. status .. ', but in no list; it belongs in ' .. expected)
    elseif where ~= expected then
      wrong(id, 'is ' .. status .. ' and belongs in ' .. expected .. ', but is in ' .. where)
    end
    if holder and holder ~= job[3] then wrong(id, 'is held by ' .. holder .. ', but its record says ' .. tostring(job[3])) end
    if holder and not job[4] then wrong(id, 'is held, but has no fencing token') end
    if not indexed then wrong(id, 'is not in the index of jobs') end
    local waits = status == 'delayed' or (status == 'queued' and not job[3])
    if waits and not expires then wrong(id, 'waits, but nothing would expire it') end
    if expires and not waits then wrong(id, 'does not wait, but is planned to expire') end
    if not FINAL[status or ''] and call('EXISTS', base .. ':batch:' .. tostring(job[5])) == 0 then
      wrong(id, 'is not finished, but its signed batch ' .. tostring(job[5]) .. ' is gone')
    end
    if job[6] and call('EXISTS', base .. ':rc:' .. job[6]) == 0 then wrong(id, 'points to receipts that are gone: ' .. job[6]) end
  end
end
return reply
