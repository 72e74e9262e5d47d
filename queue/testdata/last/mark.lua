#!lua
-- mark makes keys dirty. It alone carries no allow-oom: a server out of memory
-- refuses it before its first write, and the caller answers 503.
--
--   ARGV[1] channel; then four per mark: key, class (0 live, 1 sweep), delay ms, ref or ""
--
--   returns one number per mark: 1 the key waits because of this mark,
--   0 it was waiting or leased already
local MAX_REFS = 32

-- addref notes the ref of a mark, or that a mark has none or one too many. What
-- changes nothing is not written: a hot key would fill the append-only file.
local function addref(id, ref)
  local all = redis.call('HGET', REFS, id) or ''
  if ref ~= '' then
    if string.find(all .. '\n', '\n' .. ref .. '\n', 1, true) then return end
    local _, n = string.gsub(all, '\n', '\n')
    if n < MAX_REFS then
      redis.call('HSET', REFS, id, all .. '\n' .. ref)
      return
    end
  end
  if string.byte(all) ~= 42 then redis.call('HSET', REFS, id, '*' .. all) end
end

local t = now()
local out, soonest = {}, nil
for i = 2, #ARGV, 4 do
  local id, live, due, ref = ARGV[i], ARGV[i + 1] == '0', t + tonumber(ARGV[i + 2]), ARGV[i + 3]
  addref(id, ref) -- first: a key that is dirty must not hide a mark behind the refs of others
  local g = redis.call('HINCRBY', GEN, id, 1)
  local queued, ready = 0, false
  local inlive = tonumber(redis.call('ZSCORE', LIVE, id) or nil)
  if inlive and (inlive <= due or held(inlive)) then
    -- It waits in the best class, and no later than this mark asks for or may.
  elseif redis.call('ZSCORE', LEASE, id) then
    -- In work: the new generation makes done queue it once more. It comes back
    -- in the best class of the marks that came since the claim.
    if live then
      redis.call('HDEL', CLASS, id)
    else
      local claim = redis.call('HGET', CLAIM, id)
      if claim and tonumber(string.match(claim, ':(%d+):%d$')) == g - 1 then redis.call('HSET', CLASS, id, 1) end
    end
  elseif inlive then
    redis.call('ZADD', LIVE, due, id)
    ready = true
  else
    local insweep = tonumber(redis.call('ZSCORE', SWEEP, id) or nil)
    if not insweep then queued = 1 end
    if live then
      if insweep then due = math.min(insweep, due) end
      redis.call('ZADD', LIVE, due, id)
      if insweep then redis.call('ZREM', SWEEP, id) end
      redis.call('HDEL', CLASS, id)
      ready = true
    elseif not insweep or due < insweep then
      redis.call('HSET', CLASS, id, 1)
      redis.call('ZADD', SWEEP, due, id)
      ready = true
    end
  end
  if ready and (not soonest or due < soonest) then soonest = due end
  out[#out + 1] = queued
end
if soonest then wake(ARGV[1], math.max(0, soonest - t)) end
return out
