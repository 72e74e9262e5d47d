#!lua flags=allow-oom
-- reap takes back keys whose lease ran out, counting an attempt, and notices a
-- server clock that was set back.
--
--   ARGV[1] channel  ARGV[2] most keys to take back
--
--   returns how many leases it ended
local clock = redis.call('HMGET', CLOCK, 'off', 'last')
local t = now()
local last = tonumber(clock[2] or t)
if t < last - 1000 then
  redis.call('HSET', CLOCK, 'off', string.format('%.0f', tonumber(clock[1] or 0) + last - t))
  t = last
end
-- Once a second is enough, and spares the append-only file.
if not clock[2] or t >= last + 1000 then redis.call('HSET', CLOCK, 'last', string.format('%.0f', t)) end

local ids = redis.call('ZRANGEBYSCORE', LEASE, '-inf', t, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  if redis.call('HEXISTS', GEN, id) == 1 then
    requeue(id, t, redis.call('HGET', CLAIM, id))
    redis.call('HINCRBY', ATT, id, 1)
  end
  unlease(id)
end
if #ids > 0 then wake(ARGV[1], 0) end
return #ids
