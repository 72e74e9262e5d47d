#!lua flags=no-writes
-- stats counts.
--
--   returns { live due, live in all, sweep due, sweep in all, leased, dirty,
--   ms since the first live key became due (negative: until it does; 0 if there
--   is none), the same for sweep }
local t = now()
local out = {}
for _, zset in ipairs({ LIVE, SWEEP }) do
  out[#out + 1] = redis.call('ZCOUNT', zset, '-inf', t)
  out[#out + 1] = redis.call('ZCARD', zset)
end
out[#out + 1] = redis.call('ZCARD', LEASE)
out[#out + 1] = redis.call('HLEN', GEN)
for _, zset in ipairs({ LIVE, SWEEP }) do
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  out[#out + 1] = first[2] and t - tonumber(first[2]) or 0
end
return out
