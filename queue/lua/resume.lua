#!lua flags=allow-oom
-- resume makes keys due that are put off until an outage ends. The scan for them
-- is the caller's, as in repair.
--
--   ARGV[1] channel  ARGV[2..] keys
--
--   returns how many it made due
local t, n = now(), 0
for i = 2, #ARGV do
  local id = ARGV[i]
  for _, zset in ipairs({ LIVE, SWEEP }) do
    local due = tonumber(redis.call('ZSCORE', zset, id) or nil)
    if due and due > t and due % 1 == OUTAGE then
      redis.call('ZADD', zset, t, id)
      n = n + 1
    end
  end
end
if n > 0 then wake(ARGV[1], 0) end
return n
