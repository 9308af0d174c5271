-- What time does to a queue: delayed jobs become due, waiting jobs expire, finished jobs are forgotten. Bounded work per call.
-- ARGV: retention (ms), how many finished jobs to keep, limit per kind of work.
-- Gives {became due, expired, forgotten, ms until there is something to do (-1 = nothing planned, 0 = call again)}.
local retention, keep, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local due = call('ZRANGE', base .. ':delayed', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
for _, id in ipairs(due) do
  local job = call('HMGET', job_key(id), 'priority', 'run_until')
  call('ZREM', base .. ':delayed', id)
  if job[2] then
    call('HSET', job_key(id), 'status', 'queued')
    enqueue(id, job[1], job[2])
  end
end

local expired = call('ZRANGE', base .. ':expiry', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
for _, id in ipairs(expired) do
  local job = call('HMGET', job_key(id), 'status', 'priority', 'batch')
  if job[1] == 'delayed' then call('ZREM', base .. ':delayed', id) else call('ZREM', pending_key(job[2]), id) end
  call('ZREM', base .. ':expiry', id)
  if job[1] then conclude(id, job[3], 'expired', now) end
end
conclude_all()

local old = call('ZRANGE', base .. ':done', '-inf', now - retention, 'BYSCORE', 'LIMIT', 0, limit)
local excess = call('ZCARD', base .. ':done') - keep
if #old < limit and excess > #old then old = call('ZRANGE', base .. ':done', 0, math.min(excess, limit) - 1) end
for _, id in ipairs(old) do forget(id) end

if pending_count() > 0 then hint() end
if #due == limit or #expired == limit or #old == limit then return { #due, #expired, #old, 0 } end
local next_at
local function plan(key, after)
  local first = call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')
  if first[2] then
    local at = tonumber(first[2]) + after
    if not next_at or at < next_at then next_at = at end
  end
end
plan(':delayed', 0)
plan(':expiry', 0)
plan(':done', retention)
return { #due, #expired, #old, next_at and math.max(next_at - now, 1) or -1 }
