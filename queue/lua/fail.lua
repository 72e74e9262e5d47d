#!lua flags=allow-oom
-- fail gives a claim back to be tried again later.
--
--   ARGV[1] channel  ARGV[2] key  ARGV[3] claim value  ARGV[4] delay ms
--   ARGV[5] 1 counts an attempt, 0 does not
--   ARGV[6] why it waits: "backoff", "outage", or "revisit" for a later look at what
--           was done, which marks bring forward
--   ARGV[7] claimed generation  ARGV[8] longest pause of a revisit that was marked
--           meanwhile, ms
--
--   returns the failed attempts so far, or -1 if no longer owned
local id, delay, why = ARGV[2], tonumber(ARGV[4]), ARGV[6]
if not owned(id, ARGV[3]) then return -1 end
local n
if ARGV[5] == '1' then
  n = redis.call('HINCRBY', ATT, id, 1)
else
  n = tonumber(redis.call('HGET', ATT, id) or 0)
end
local g = redis.call('HGET', GEN, id)
if g then
  local hold = 0
  if why == 'revisit' then
    if g ~= ARGV[7] and tonumber(ARGV[8]) < delay then delay, hold = tonumber(ARGV[8]), GATHER end
  elseif why == 'outage' then
    hold = OUTAGE
  else
    hold = BACKOFF
  end
  if delay == 0 then hold = 0 end
  requeue(id, now() + delay + hold, ARGV[3])
end
unlease(id)
wake(ARGV[1], delay)
return n
