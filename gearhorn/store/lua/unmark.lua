-- Take away the mark of a drain that is over, and no other.
-- KEYS: 1 the marks   ARGV: 1 the queue  2 the mark
-- Returns 1 if this call took it away.

if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
