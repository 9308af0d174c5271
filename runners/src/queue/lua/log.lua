-- Appends to the logs of jobs that the worker still holds, and drops the oldest lines beyond the caps.
-- ARGV: worker, max lines, max bytes, then per job: id, token, number of lines, (stream, at, text) each.
-- Gives one number per job: 1 appended, 0 refused.
local worker, max_lines, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local reply, i = {}, 4
while i <= #ARGV do
  local id, token, lines = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  i = i + 3
  local key, log = job_key(id), base .. ':log:' .. id
  local job = call('HMGET', key, 'status', 'worker', 'token', 'log_bytes', 'log_dropped')
  local mine = job[2] == worker and job[3] == token and (job[1] == 'running' or job[1] == 'queued')
  if mine then
    local bytes, gone = tonumber(job[4] or '0'), tonumber(job[5] or '0')
    for line = 0, lines - 1 do
      local at = i + 3 * line
      call('XADD', log, '*', 's', ARGV[at], 'at', ARGV[at + 1], 't', ARGV[at + 2])
      -- Lines of the system carry no bytes in the account: scripts add some that are not counted here.
      if ARGV[at] ~= 'system' then bytes = bytes + #ARGV[at + 2] end
    end
    local length = call('XLEN', log)
    while length > 1 and (length > max_lines or bytes > max_bytes) do
      local oldest, from = call('XRANGE', log, '-', '+', 'COUNT', 200), nil
      for n, entry in ipairs(oldest) do
        -- The newest line stays, whatever its size.
        if length <= 1 or (length <= max_lines and bytes <= max_bytes) then
          from = entry[1]
          break
        end
        if entry[2][2] ~= 'system' then bytes = bytes - #entry[2][6] end
        length = length - 1
        gone = gone + 1
      end
      if from then call('XTRIM', log, 'MINID', from) else call('XTRIM', log, 'MAXLEN', length) end
    end
    call('HSET', key, 'log_bytes', bytes, 'log_dropped', gone)
  end
  reply[#reply + 1] = mine and 1 or 0
  i = i + 3 * lines
end
return reply
