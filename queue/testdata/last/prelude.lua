-- Shared by every script of the queue. Each is run with the keys of one
-- partition, always in this order:
--
--   KEYS[1] gen    hash  key -> generation. The truth: a key is dirty if and only
--                        if it has a generation. Everything else can be rebuilt.
--   KEYS[2] live   zset  key -> due time, ms: keys that wait, live work
--   KEYS[3] sweep  zset  key -> due time, ms: keys that wait, sweep work
--   KEYS[4] lease  zset  key -> end of the lease, ms
--   KEYS[5] claim  hash  key -> "token:generation:class" of the claim that owns it
--   KEYS[6] att    hash  key -> failed attempts since the last success
--   KEYS[7] refs   hash  key -> refs, each behind a line break; in front of them "*"
--                        where there were marks that they do not name, "+" where
--                        the claim that owns the key knows of all of those.
--                        Without a value nothing is named (a hint)
--   KEYS[8] class  hash  key -> "1" where the work is sweep work; absent: live
--   KEYS[9] clock  hash  "off": ms added to the server's clock, "last": the time seen
--                        by the last reap
--
-- A script that fails halfway is not rolled back, so every prefix of every
-- script must leave a state from which reap and repair recover. No key has a
-- time to live: an expired key would be a lost wake-up.
local GEN, LIVE, SWEEP, LEASE, CLAIM = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ATT, REFS, CLASS, CLOCK = KEYS[6], KEYS[7], KEYS[8], KEYS[9]

-- now returns the queue's time in ms. It is the server's clock plus an offset
-- that reap raises when that clock was set back (a failover, a bad NTP step):
-- without it, everything due "in the past" of the old clock would wait until
-- the new one catches up.
local function now()
  local c = redis.call('TIME')
  return c[1] * 1000 + math.floor(c[2] / 1000) + tonumber(redis.call('HGET', CLOCK, 'off') or 0)
end

-- owned says whether the claim on id is still the one with this value.
local function owned(id, value) return redis.call('HGET', CLAIM, id) == value end

-- waiting returns the zset that id belongs into by its class.
local function waiting(id)
  if redis.call('HGET', CLASS, id) then return SWEEP end
  return LIVE
end

-- requeue puts a leased id back to wait. A claim that was live stays live; one
-- that was sweep is live if a live mark came meanwhile (mark then deleted its class).
local function requeue(id, due, value)
  if value and string.sub(value, -2) == ':0' then redis.call('HDEL', CLASS, id) end
  redis.call('ZADD', waiting(id), due, id)
end

-- unlease ends the claim on id, whoever owns it.
local function unlease(id)
  redis.call('ZREM', LEASE, id)
  redis.call('HDEL', CLAIM, id)
end

-- A due time with half a millisecond is held: a mark does not bring it forward.
local HELD = 0.5

local function held(due) return due % 1 == HELD end

-- wake tells every process that something will be ready in ms. Losing it costs
-- latency only, so a server that refuses PUBLISH is not an error.
local function wake(channel, ms) redis.pcall('PUBLISH', channel, string.format('%.0f', ms)) end
