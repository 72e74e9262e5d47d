#!lua flags=allow-oom
-- acquire takes one call out of every bucket that the call counts against, or
-- out of none, and says how long to wait then.
--
-- A bucket is a hash:
--   lvl  calls that may be made at once      at   when lvl was true, µs
--   f    share of the rate that 429s left    fat  when f was true, µs
--   hi   until when live calls are known to wait for this bucket, µs
--   lo   until when sweep calls are known to wait for it, µs
--   due  from when sweep calls may take their guaranteed share again, µs
-- A lost hash is one call at the full rate: what was in it may have been used.
--
--   KEYS[1..n] buckets  KEYS[n+1] counters, hash "hour:purpose" -> calls
--   ARGV[1] time, µs, or "" for the server's  ARGV[2] 1 for a live call, 0 for sweep
--   ARGV[3] purpose, counted when the call may be made
--   ARGV[4] size of a bucket, in seconds' worth of calls, at least one call
--   ARGV[5] share of the rate guaranteed to sweep calls  ARGV[6] growth of f per second
--   ARGV[7..] rate of each bucket, calls per second
--
--   returns 0 when the call may be made now, else µs until it is worth asking again
local n = #KEYS - 1
local t
if ARGV[1] ~= '' then
  t = tonumber(ARGV[1])
else
  local c = redis.call('TIME')
  t = c[1] * 1000000 + c[2]
end
local live, purpose = ARGV[2] == '1', ARGV[3]
local burst, share, growth = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local SECOND = 1000000
-- How long after its announced return a waiting caller still counts as waiting.
local GRACE = 100000
local function int(v) return string.format('%.0f', v) end

local buckets, wait = {}, 0
for i = 1, n do
  local h = redis.call('HMGET', KEYS[i], 'lvl', 'at', 'f', 'fat', 'hi', 'lo', 'due')
  local at, fat = tonumber(h[2] or t), tonumber(h[4] or t)
  if at > t or fat > t then
    -- A server clock that was set back must not stop all calls until it has
    -- caught up: what lies in the future counts as now, or as over.
    at, fat = math.min(t, at), math.min(t, fat)
    redis.call('HSET', KEYS[i], 'at', int(at), 'fat', int(fat))
  end
  local hi, lo, due = tonumber(h[5] or 0), tonumber(h[6] or 0), tonumber(h[7] or 0)
  local f = math.min(1, tonumber(h[3] or 1) + growth * (t - fat) / SECOND)
  local rate = tonumber(ARGV[6 + i]) * f
  local turn = SECOND / (rate * share) -- between two calls of the guaranteed share
  if due > t + 2 * turn then due = 0 end
  if hi > t + 60 * SECOND then hi = 0 end
  if lo > t + 60 * SECOND then lo = 0 end
  local cap = math.max(1, rate * burst)
  local lvl = math.min(cap, tonumber(h[1] or 1) + rate * (t - at) / SECOND)
  local contended, owed = hi > t, due <= t
  local function fill(level) return math.max(0, (level - lvl) / rate * SECOND) end

  local b = { lvl = lvl, hi = hi, lo = lo, turn = turn, short = false, guaranteed = false }
  if live then
    -- One call is left for a sweep that waits for its guaranteed share.
    local need = 1
    if lo > t and owed then need = 2 end
    if lvl < need then
      b.short = true
      local w = fill(math.min(need, cap))
      if need > cap and w == 0 then w = math.min(lo - t, SECOND / rate) end
      wait = math.max(wait, w, 1000)
    end
  else
    -- Half a bucket is kept for live calls to come, all of it while live calls
    -- wait; what is guaranteed needs a single call.
    local need = math.max(1, math.min(cap, 1 + cap / 2))
    if contended or lvl < need then
      if owed and lvl >= 1 then
        b.guaranteed = true
      else
        b.short = true
        local w = fill(need)
        if contended then w = math.max(w, hi - t) end
        wait = math.max(wait, math.min(w, math.max(fill(1), due - t)), 1000)
      end
    end
  end
  buckets[i] = b
end

for i = 1, n do
  local b = buckets[i]
  if wait == 0 then
    local set = { 'lvl', string.format('%.6f', b.lvl - 1), 'at', int(t) }
    if b.guaranteed then
      set[5], set[6], set[7], set[8] = 'due', int(t + b.turn), 'lo', '0'
    end
    redis.call('HSET', KEYS[i], unpack(set))
    -- Housekeeping only: a bucket that idles so long is full and undisturbed.
    redis.call('PEXPIRE', KEYS[i], 3600000)
  elseif b.short then
    -- Noted anew only when the old note is about to run out, which spares the
    -- append-only file most refusals.
    local field, noted = 'lo', b.lo
    if live then field, noted = 'hi', b.hi end
    if noted < t + wait + GRACE / 2 then redis.call('HSET', KEYS[i], field, int(t + wait + GRACE)) end
  end
end
if wait > 0 then return math.ceil(wait) end

-- Count it. Each new field is the moment to forget the old ones, so that their
-- number stays below hours kept times purposes.
local hour = math.floor(t / SECOND / 3600)
if redis.call('HINCRBY', KEYS[n + 1], int(hour) .. ':' .. purpose, 1) == 1 then
  for _, field in ipairs(redis.call('HKEYS', KEYS[n + 1])) do
    local h = tonumber(string.match(field, '^(%d+):'))
    if not h or h < hour - 744 then redis.call('HDEL', KEYS[n + 1], field) end
  end
end
return 0
