#!lua flags=allow-oom
-- repair looks at some entries of one hash. Of the generations, it queues every
-- dirty key that neither waits nor is leased. Of the other hashes, it drops
-- entries whose key is neither dirty nor leased. The scan itself is the
-- caller's: a server that cannot scan in slices (the embedded one) would hold
-- everybody up for the whole of it.
--
--   ARGV[1] channel  ARGV[2] which of the keys to look at: 1, 5, 6, 7 or 8
--   ARGV[3..] entries
--
--   returns how many entries it repaired
local hash = KEYS[tonumber(ARGV[2])]
local t, n = now(), 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local dirty, leased = redis.call('HEXISTS', GEN, id) == 1, redis.call('ZSCORE', LEASE, id)
  if hash ~= GEN then
    if not dirty and not leased then n = n + redis.call('HDEL', hash, id) end
  elseif dirty and not leased and not redis.call('ZSCORE', LIVE, id) and not redis.call('ZSCORE', SWEEP, id) then
    redis.call('ZADD', waiting(id), t, id)
    n = n + 1
  end
end
if n > 0 and hash == GEN then wake(ARGV[1], 0) end
return n
