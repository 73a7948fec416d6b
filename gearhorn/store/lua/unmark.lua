-- Take away the mark of a drain that is over, and no other.
--
-- Atomic, because the drainer's lease may have lapsed, and another member may set a mark of its own
-- between the comparison and the deletion: its drain would go on unmarked, and take the jobs of a
-- subscription that is made meanwhile.
--
-- KEYS: 1 the marks, queue -> "MEMBER REQUEST"
-- ARGV: 1 the queue  2 the mark
-- Returns 1 if this call took it away.
-- Cost: two commands.

if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
