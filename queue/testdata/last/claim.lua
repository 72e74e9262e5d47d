#!lua flags=allow-oom
-- claim leases keys that are due: first some sweep work (its guaranteed share),
-- then live work, then what sweep work there is.
--
--   ARGV[1] token, random per call  ARGV[2] lease ms  ARGV[3] most keys to claim
--   ARGV[4] how many of those look at sweep work first
--
--   returns { ms until the next key is due, or -1 if none waits, or 0 if there may
--   be more; then six per claim: key, generation, class, attempts, ms since it
--   became due, refs or "" }
local token, term, max, share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t = now()
local out, n, scanned, cut = { 0 }, 0, 0, false

local function take(zset, class, limit)
  local got = 0
  while got < limit and not cut do
    local ids = redis.call('ZRANGEBYSCORE', zset, '-inf', t, 'WITHSCORES', 'LIMIT', 0, limit - got)
    if #ids == 0 then return end
    for i = 1, #ids, 2 do
      local id, due = ids[i], tonumber(ids[i + 1])
      local g, lease = redis.call('HGET', GEN, id), redis.call('ZSCORE', LEASE, id)
      if not g then
        -- Done, or the generations were lost: nothing to work on.
        redis.call('ZREM', zset, id)
        if not lease then
          redis.call('HDEL', ATT, id)
          redis.call('HDEL', REFS, id)
          redis.call('HDEL', CLASS, id)
        end
      elseif lease and tonumber(lease) > t then
        -- In work (a script broke off between two steps): done or reap re-queue it.
        redis.call('ZREM', zset, id)
      else
        -- A lease that ran out, seen here before reap saw it.
        if lease then redis.call('HINCRBY', ATT, id, 1) end
        redis.call('ZADD', LEASE, t + term, id)
        redis.call('HSET', CLAIM, id, token .. ':' .. g .. ':' .. class)
        redis.call('ZREM', LIVE, id)
        redis.call('ZREM', SWEEP, id)
        got, n = got + 1, n + 1
        out[#out + 1] = id
        out[#out + 1] = g
        out[#out + 1] = class
        out[#out + 1] = redis.call('HGET', ATT, id) or '0'
        out[#out + 1] = string.format('%.0f', t - due)
        local refs = redis.call('HGET', REFS, id) or ''
        if string.byte(refs) == 42 then
          refs = '+' .. string.sub(refs, 2)
          redis.call('HSET', REFS, id, refs)
        end
        out[#out + 1] = refs
      end
    end
    -- One call must not hold the server while it clears thousands of leftovers.
    scanned = scanned + #ids / 2
    if scanned > max + 500 then cut = true end
  end
end

take(SWEEP, '1', share)
take(LIVE, '0', max - n)
take(SWEEP, '1', max - n)
if n < max and not cut then
  local next = -1
  for _, zset in ipairs({ LIVE, SWEEP }) do
    local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
    if first[2] then
      local ms = math.max(1, tonumber(first[2]) - t)
      if next < 0 or ms < next then next = ms end
    end
  end
  out[1] = next
end
return out
