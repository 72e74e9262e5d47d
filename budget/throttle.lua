#!lua flags=allow-oom
-- throttle halves the rate of a bucket after a 429, at most once a second, and
-- empties it. acquire lets the rate grow again.
--
--   KEYS[1] bucket, a hash as in acquire
--   ARGV[1] time, µs, or "" for the server's  ARGV[2] growth of f per second  ARGV[3] lowest f
--
--   returns 1 when the rate was cut, 0 when that was less than a second ago
local t
if ARGV[1] ~= '' then
  t = tonumber(ARGV[1])
else
  local c = redis.call('TIME')
  t = c[1] * 1000000 + c[2]
end
local h = redis.call('HMGET', KEYS[1], 'f', 'fat', 'cut')
local cut = tonumber(h[3] or 0)
if cut <= t and t - cut < 1000000 then return 0 end
local fat = math.min(t, tonumber(h[2] or t))
local f = math.min(1, tonumber(h[1] or 1) + tonumber(ARGV[2]) * (t - fat) / 1000000)
local now = string.format('%.0f', t)
redis.call('HSET', KEYS[1], 'f', string.format('%.6f', math.max(tonumber(ARGV[3]), f / 2)), 'fat', now, 'cut', now,
  'lvl', '0', 'at', now)
redis.call('PEXPIRE', KEYS[1], 3600000)
return 1
