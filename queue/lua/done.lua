#!lua flags=allow-oom
-- done completes a claim. It clears exactly the generation that was claimed.
--
--   ARGV[1] channel  ARGV[2] key  ARGV[3] claim value  ARGV[4] claimed generation
--   ARGV[5] length of the claimed refs, without what is in front of them
--   ARGV[6] longest pause before the next run, ms
--
--   returns 0 clean, 1 marked meanwhile and waiting again, -1 no longer owned
local id = ARGV[2]
if not owned(id, ARGV[3]) then return -1 end
local g = redis.call('HGET', GEN, id)
local again, pause = 0, 0
redis.call('HDEL', ATT, id)
if g and g ~= ARGV[4] then
  again = 1
  -- Only what was marked meanwhile asks for the next run.
  local refs = redis.call('HGET', REFS, id) or ''
  local front = string.match(refs, '^[*+]*')
  local rest = string.sub(refs, #front + 1 + tonumber(ARGV[5]))
  if string.find(front, '*', 1, true) then rest = '*' .. rest end
  if rest == '' then
    redis.call('HDEL', REFS, id)
  else
    redis.call('HSET', REFS, id, rest)
  end
  -- The generation counts the marks since it was clean: the longer it has been
  -- marked faster than it is worked on, the longer it gathers before the next run.
  pause = math.floor(ARGV[6] * math.min(1, g * g / 80))
  local due = now() + pause
  if pause > 0 then due = due + GATHER end
  redis.call('ZADD', waiting(id), due, id)
else
  -- The generation goes last: what breaks off before is a key to run once more.
  redis.call('HDEL', REFS, id)
  redis.call('HDEL', CLASS, id)
  redis.call('HDEL', GEN, id)
end
unlease(id)
if again == 1 then wake(ARGV[1], pause) end
return again
