-- Remove a member whose renewal count stood still, unless it has been renewed after all.
-- KEYS: 1 the members   ARGV: 1 the member  2 what was found of it
-- Returns 1 if this call removed it.

if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
