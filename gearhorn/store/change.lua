-- Subscribe or unsubscribe one pair, atomically (PROTOCOL §2, §4, §6).
-- KEYS: 1 the topic's clients  2 their options  3 their drops  4 the version  5 the change log
--       6 its floor  7 the topics  8 the clock  9 what expires  10 queues being drained
--       11 the members  12 the log  13 its messages  14 the lanes  15 topics with lanes
--       16 when which log is due  17 when which unique was logged  18 where each was
--       19 the pair's parked messages' order  20 the messages  21 those put back  22 its attempts
--       23 the marks of the log's blocks  24 what is done beyond its position  25 which pairs have
--       messages that were put back
--       26… the clients of every other topic that could make the same queue name
-- ARGV: 1 "subscribe", "unsubscribe" or "expire"  2 topic  3 client_id  4 queue
--       5 the options given, as JSON; of an unsubscribe who drains the queue, or nothing
--       6 the caller's reading of the clock, ms  7 where a durable subscription starts, as JSON, or
--       ''  8 a fresh epoch  9… the client_ids that go with KEYS 26…
-- Returns {version, whether the pair existed before, its former options or false where they end or
-- change, 1 where lanes or the log are concerned, parked messages discarded or -1}; {0, n, false}
-- where pair n owns the queue name; {0, 0, false} where the queue is being drained, or the pair has
-- not expired; {0, -1, last} where it would start beyond the log.

local kind, topic, client = ARGV[1], ARGV[2], ARGV[3]
local pair = topic .. '\0' .. client

local function now()
    return clock_now(KEYS[8], ARGV[6])
end

-- End the pair's durability; returns the parked messages discarded, or -1 where it was not durable.
local function end_lane()
    if redis.call('HDEL', KEYS[14], client) == 0 then
        return -1
    end
    local parked = redis.call('ZCARD', KEYS[19]) + redis.call('ZCARD', KEYS[21])
    redis.call('UNLINK', KEYS[19], KEYS[20], KEYS[21], KEYS[22], KEYS[24])
    redis.call('ZREM', KEYS[25], pair)
    if redis.call('HLEN', KEYS[14]) == 0 then
        redis.call('ZREM', KEYS[15], topic)
        if not redis.call('HGET', KEYS[12], 'retained') then
            redis.call('UNLINK', KEYS[12], KEYS[13], KEYS[17], KEYS[18], KEYS[23])
            redis.call('ZREM', KEYS[16], topic)
        end
    end
    return parked
end

-- Returns where a new durable subscription begins: what counts as done.
local function start_of(log)
    local start = cjson.decode(ARGV[7])
    if start == 'all' then
        return log.first - 1
    elseif start == 'last' then
        return math.max(log.last, log.first) - 1
    elseif type(start) == 'table' and start.window then
        return first_since(log, now() - 1000 * start.window) - 1
    elseif type(start) == 'table' then
        return math.max(start.sequence, log.first - 1)
    end
    return log.last
end

if kind ~= 'subscribe' then
    if kind == 'expire' then
        local at = redis.call('ZSCORE', KEYS[9], pair)
        if not at or tonumber(at) > now() then
            return {0, 0, false}
        end
    end
    local existed = redis.call('ZREM', KEYS[1], client)
    local former = redis.call('HGET', KEYS[2], client)
    redis.call('HDEL', KEYS[2], client)
    redis.call('HDEL', KEYS[3], client)
    redis.call('ZREM', KEYS[9], pair)
    if redis.call('ZCARD', KEYS[1]) == 0 then
        redis.call('ZREM', KEYS[7], topic)
    end
    if existed == 1 and ARGV[5] ~= '' then
        redis.call('HSET', KEYS[10], ARGV[4], ARGV[5])
    end
    local parked = end_lane()
    local version = change(topic, KEYS[4], KEYS[5], KEYS[6])
    return {version, existed, former, parked >= 0 and 1 or 0, parked}
end

local drainer = redis.call('HGET', KEYS[10], ARGV[4])
if drainer then
    if redis.call('HEXISTS', KEYS[11], drainer) == 1 then
        return {0, 0, false}
    end
    redis.call('HDEL', KEYS[10], ARGV[4]) -- who drained it is gone
end
for n = 1, #KEYS - 25 do
    if redis.call('ZSCORE', KEYS[25 + n], ARGV[8 + n]) then
        return {0, n, false}
    end
end
local given = ARGV[5] ~= '{}' and cjson.decode(ARGV[5]) or {}
local is_new_lane = type(given.durable) == 'table'
    and redis.call('HEXISTS', KEYS[14], client) == 0
local log, position
if is_new_lane then
    log = open_log(KEYS[12], KEYS[13], KEYS[23])
    local start = cjson.decode(ARGV[7])
    local last = log and log.last or 0
    if type(start) == 'table' and start.sequence and start.sequence > last then
        return {0, -1, last}
    end
end

local added = redis.call('ZADD', KEYS[1], 0, client)
local former = added == 0 and redis.call('HGET', KEYS[2], client)
local options = former and cjson.decode(former) or {}
for key, value in pairs(given) do
    if key == 'durable' and type(value) == 'table' and options.durable then
        for one, what in pairs(value) do
            options.durable[one] = what
        end
    elseif key == 'durable' and not value then
        options.durable = nil
    else
        options[key] = value
    end
end
if next(options) then
    redis.call('HSET', KEYS[2], client, cjson.encode(options))
else
    redis.call('HDEL', KEYS[2], client)
end
if not next(given) then
    former = false -- nothing changes
end
if added == 1 then
    redis.call('ZADD', KEYS[7], 0, topic)
end
if options.ttl then
    redis.call('ZADD', KEYS[9], now() + options.ttl * 1000, pair)
end
local parked = -1
if given.durable == false then
    parked = end_lane()
elseif is_new_lane then
    log = log or make_log(KEYS[12], KEYS[13], KEYS[23], KEYS[16], topic, ARGV[8])
    position = start_of(log)
    redis.call('HSET', KEYS[14], client, string.format('- 0 %.0f', position))
    redis.call('ZADD', KEYS[15], 0, topic)
end
if options.durable then
    -- nobody delivers for a subscription that is read from
    local record = redis.call('HGET', KEYS[14], client)
    local is_pull = string.sub(record, 1, 5) == 'pull '
    if options.durable.pull and not is_pull then
        redis.call('HSET', KEYS[14], client, string.format('pull 0 %.0f', position_of(record)))
        if redis.call('ZCARD', KEYS[21]) > 0 then -- what was put back would not be delivered
            redis.call('ZUNIONSTORE', KEYS[19], 2, KEYS[19], KEYS[21], 'AGGREGATE', 'MIN')
            redis.call('DEL', KEYS[21])
            redis.call('ZREM', KEYS[25], pair)
        end
    elseif is_pull and not options.durable.pull then
        redis.call('HSET', KEYS[14], client, string.format('- 0 %.0f', position_of(record)))
    end
end
local is_concerned = (options.durable or given.durable == false) and 1 or 0
return {change(topic, KEYS[4], KEYS[5], KEYS[6]), 1 - added, former, is_concerned, parked}
