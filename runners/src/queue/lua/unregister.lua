-- Takes workers that hold no jobs off the register. ARGV: workers. Gives how many went.
local busy, went = {}, 0
for _, worker in ipairs(call('HVALS', base .. ':active')) do busy[worker] = true end
for i = 1, #ARGV do
  if not busy[ARGV[i]] then
    call('UNLINK', base .. ':worker:' .. ARGV[i])
    went = went + call('SREM', base .. ':workers', ARGV[i])
  end
end
return went
