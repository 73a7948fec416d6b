-- Remove a field of a hash unless it has changed: a member whose record stood still, or the mark of
-- a drain that is over.
-- KEYS: 1 the hash   ARGV: 1 the field  2 what it must still hold
-- Returns 1 if this call removed it.

if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
