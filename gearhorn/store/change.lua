-- Subscribe or unsubscribe one pair, atomically (PROTOCOL §2, §4).
-- KEYS: 1 the topic's clients  2 their options  3 their drops  4 the version  5 the change log
--       6 its floor  7 the topics  8 the clock  9 what expires  10 queues being drained
--       11 the members  12… the clients of every other topic that could make the same queue name
-- ARGV: 1 "subscribe", "unsubscribe" or "expire"  2 topic  3 client_id  4 queue
--       5 the options given, as JSON; of an unsubscribe who drains the queue, or nothing
--       6 the caller's reading of the clock, ms  7… the client_ids that go with KEYS 12…
-- Returns {version, whether the pair existed before, its former options or false where they end or
-- change}; {0, n, false} where pair n owns the queue name; {0, 0, false} where the queue is being
-- drained, or the pair has not expired.

local KEPT, EXTRA = 10000, 1000 -- topics in the change log, and more until the oldest go
local kind, topic, client = ARGV[1], ARGV[2], ARGV[3]
local pair = topic .. '\0' .. client

local function change()
    local version = redis.call('INCR', KEYS[4])
    redis.call('ZADD', KEYS[5], version, topic)
    if redis.call('ZCARD', KEYS[5]) > KEPT + EXTRA then
        local gone = redis.call('ZRANGE', KEYS[5], 0, EXTRA - 1, 'WITHSCORES')
        redis.call('SET', KEYS[6], gone[#gone])
        redis.call('ZREMRANGEBYRANK', KEYS[5], 0, EXTRA - 1)
    end
    return version
end

local function now()
    return math.max(tonumber(redis.call('GET', KEYS[8]) or 0), tonumber(ARGV[6]))
end

if kind ~= 'subscribe' then
    if kind == 'expire' then
        local at = redis.call('ZSCORE', KEYS[9], pair)
        if not at or tonumber(at) > now() then
            return {0, 0, false}
        end
    end
    local existed = redis.call('SREM', KEYS[1], client)
    local former = redis.call('HGET', KEYS[2], client)
    redis.call('HDEL', KEYS[2], client)
    redis.call('HDEL', KEYS[3], client)
    redis.call('ZREM', KEYS[9], pair)
    if redis.call('SCARD', KEYS[1]) == 0 then
        redis.call('ZREM', KEYS[7], topic)
    end
    if existed == 1 and ARGV[5] ~= '' then
        redis.call('HSET', KEYS[10], ARGV[4], ARGV[5])
    end
    return {change(), existed, former}
end

local drainer = redis.call('HGET', KEYS[10], ARGV[4])
if drainer then
    if redis.call('HEXISTS', KEYS[11], drainer) == 1 then
        return {0, 0, false}
    end
    redis.call('HDEL', KEYS[10], ARGV[4]) -- who drained it is gone
end
for n = 1, #KEYS - 11 do
    if redis.call('SISMEMBER', KEYS[11 + n], ARGV[6 + n]) == 1 then
        return {0, n, false}
    end
end
local added = redis.call('SADD', KEYS[1], client)
local former = added == 0 and redis.call('HGET', KEYS[2], client)
local options = former and cjson.decode(former) or {}
if ARGV[5] ~= '{}' then
    for key, value in pairs(cjson.decode(ARGV[5])) do
        options[key] = value
    end
    redis.call('HSET', KEYS[2], client, cjson.encode(options))
else
    former = false -- nothing changes
end
if added == 1 then
    redis.call('ZADD', KEYS[7], 0, topic)
end
if options.ttl then
    redis.call('ZADD', KEYS[9], now() + options.ttl * 1000, pair)
end
return {change(), 1 - added, former}
