#!lua flags=allow-oom
-- beat says that a process is alive, counts the processes, and adds the calls
-- that were made while Redis could not be asked.
--
--   KEYS[1] replicas, zset id -> time last seen, µs  KEYS[2] counters, as in acquire
--   ARGV[1] time, µs, or "" for the server's  ARGV[2] id  ARGV[3] µs until a silent
--   process is forgotten; 0 takes this one off the list
--   then three per counter: hour, purpose, calls
--
--   returns how many processes are alive
local t
if ARGV[1] ~= '' then
  t = tonumber(ARGV[1])
else
  local c = redis.call('TIME')
  t = c[1] * 1000000 + c[2]
end
local ttl = tonumber(ARGV[3])
if ttl > 0 then
  redis.call('ZADD', KEYS[1], string.format('%.0f', t), ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', t - ttl))
  -- From before the server's clock was set back.
  redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', t + ttl), '+inf')
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
for i = 4, #ARGV, 3 do redis.call('HINCRBY', KEYS[2], ARGV[i] .. ':' .. ARGV[i + 1], ARGV[i + 2]) end
return redis.call('ZCARD', KEYS[1])
