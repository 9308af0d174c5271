-- What the reaper looks at: every worker that is registered or holds jobs, with its heartbeat counter ('' if it has none) and its lease.
local reply, seen = {}, {}
local function look(worker)
  if seen[worker] then return end
  seen[worker] = true
  local facts = call('HMGET', base .. ':worker:' .. worker, 'beat', 'lease_ms')
  reply[#reply + 1] = { worker, facts[1] or '', tonumber(facts[2] or '0') }
end
for _, worker in ipairs(call('SMEMBERS', base .. ':workers')) do look(worker) end
for _, worker in ipairs(call('HVALS', base .. ':active')) do look(worker) end
return reply
