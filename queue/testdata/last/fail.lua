#!lua flags=allow-oom
-- fail gives a claim back to be tried again later.
--
--   ARGV[1] channel  ARGV[2] key  ARGV[3] claim value  ARGV[4] delay ms
--   ARGV[5] 1 counts an attempt, 0 does not
--
--   returns the failed attempts so far, or -1 if no longer owned
local id, delay = ARGV[2], tonumber(ARGV[4])
if not owned(id, ARGV[3]) then return -1 end
local n
if ARGV[5] == '1' then
  n = redis.call('HINCRBY', ATT, id, 1)
else
  n = tonumber(redis.call('HGET', ATT, id) or 0)
end
if redis.call('HEXISTS', GEN, id) == 1 then requeue(id, now() + delay, ARGV[3]) end
unlease(id)
wake(ARGV[1], delay)
return n
