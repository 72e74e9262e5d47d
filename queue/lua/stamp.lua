#!lua flags=allow-oom
-- stamp writes the incarnation of a partition. It stands alone: it uses none of
-- the queue's keys.
--
--   KEYS[1] incarnation hash: id, hw    ARGV[1] id  ARGV[2] high-water mark
--
--   returns the high-water mark that is now stored; within one id it never falls
local cur = redis.call('HMGET', KEYS[1], 'id', 'hw')
if cur[1] == ARGV[1] and tonumber(cur[2] or -1) >= tonumber(ARGV[2]) then return tonumber(cur[2]) end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'hw', ARGV[2])
return tonumber(ARGV[2])
