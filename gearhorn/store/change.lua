-- Subscribe or unsubscribe one pair, atomically (PROTOCOL §2, §4).
-- KEYS: 1 the topic's clients (set)  2 their options (hash)  3 their drops (hash)  4 the version
--       5… the clients of every other topic that could make the same queue name
-- ARGV: 1 "subscribe" or "unsubscribe"  2 client_id  3 the options given, as JSON
--       4… the client_ids that go with KEYS 5…
-- Returns {version, whether the pair existed before, its former options or false where they end or
-- change}; or {0, n, false} where pair n owns the queue name.

if ARGV[1] == 'unsubscribe' then
    local existed = redis.call('SREM', KEYS[1], ARGV[2])
    local former = redis.call('HGET', KEYS[2], ARGV[2])
    redis.call('HDEL', KEYS[2], ARGV[2])
    redis.call('HDEL', KEYS[3], ARGV[2])
    return {redis.call('INCR', KEYS[4]), existed, former}
end

for n = 1, #KEYS - 4 do
    if redis.call('SISMEMBER', KEYS[4 + n], ARGV[3 + n]) == 1 then
        return {0, n, false}
    end
end
local added = redis.call('SADD', KEYS[1], ARGV[2])
local former = false
if ARGV[3] ~= '{}' then
    former = redis.call('HGET', KEYS[2], ARGV[2])
    local options = former and cjson.decode(former) or {}
    for key, value in pairs(cjson.decode(ARGV[3])) do
        options[key] = value
    end
    redis.call('HSET', KEYS[2], ARGV[2], cjson.encode(options))
end
return {redis.call('INCR', KEYS[4]), 1 - added, former}
