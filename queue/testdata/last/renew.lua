#!lua flags=allow-oom
-- renew extends leases that are still owned.
--
--   ARGV[1] lease ms; then two per claim: key, claim value
--
--   returns one number per claim: 1 extended, 0 lost
local t = now()
local out = {}
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  -- XX: a lease that is gone stays gone, its key may be waiting again.
  if owned(id, ARGV[i + 1]) and redis.call('ZSCORE', LEASE, id) then
    redis.call('ZADD', LEASE, 'XX', t + tonumber(ARGV[1]), id)
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out
