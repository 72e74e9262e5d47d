#!lua flags=allow-oom
-- stamp writes the incarnation of a partition. It stands alone: it uses none of
-- the queue's keys.
--
--   KEYS[1] incarnation hash: id, hw    ARGV[1] id  ARGV[2] high-water mark
--   ARGV[3] the id that was read before, or ""  ARGV[4] its high-water mark
--
--   returns 1, or 0 and writes nothing where Redis has lost what was read: a stamp
--   must not hide that. Within one id the mark never falls
local cur = redis.call('HMGET', KEYS[1], 'id', 'hw')
local id, hw = cur[1] or '', tonumber(cur[2] or 0)
if id ~= ARGV[3] or hw < tonumber(ARGV[4]) then return 0 end
if id ~= ARGV[1] or hw < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'id', ARGV[1], 'hw', ARGV[2]) end
return 1
