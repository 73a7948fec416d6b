-- Subscribe or unsubscribe one pair, or end one whose time is over or whose queue is full.
--
-- Atomic, because a subscription is told by many keys: the list, the options, the time of its end,
-- a lane with its parked messages, the topic's log, the version that all members compare. Members
-- read lists by other scripts, and between two commands one would read a pair without its options,
-- send bare copies to a durable subscription, or cache a list under a version that it does not
-- have. Two pairs that make one queue name could each find the name free before either is written.
-- And a drain's mark has to stand before the next change of that queue is checked against it.
--
-- KEYS: 1 the topic's clients  2 their options  3 their drops  4 the version  5 the change log
--       6 its floor  7 the topics  8 the clock  9 what expires  10 queues being drained
--       11 the members  12 the log  13 its messages  14 the lanes  15 topics with lanes
--       16 when which log is due  17 when which unique was logged  18 where each was
--       19 the pair's parked messages' order  20 the messages  21 those put back  22 its attempts
--       23 the marks of the log's blocks  24 what is done beyond its position  25 which pairs have
--       messages that were put back  26 what became of requests  27 when each was answered
--       28 pairs that have ended  29 the word for the set of patterns  30 the layout
--       31 how many of its messages expired  32 which of them a publisher may wait for
--       33 and 34 where lanes stand beyond the edge (standing.lua)  35 the lags, 36 the parked
--       messages and 37 the drops of topics (sums.lua)  38 those of its subscriptions that are paused
--       39 how many of its messages were passed by for newer ones
--       40… the clients of every other list that could make the same queue name
--       (of a pattern the name of its list stands for the topic, and 7 are the patterns)
-- ARGV: 1 "subscribe", "unsubscribe", "expire" or "overflow"  2 topic  3 client_id  4 queue
--       5 the options given, as JSON; of an unsubscribe the member that drains the queue, or '';
--       of an overflow a version: what was subscribed after it is spared  6 the caller's reading of
--       the clock, ms  7 where a durable subscription starts, as JSON, or ''  8 a fresh epoch
--       9 the request's id, or ''  10… the client_ids that go with KEYS 40…
-- Returns {version, whether the pair existed before, 1 where lanes or the log are concerned, parked
-- messages discarded or -1, 1 where the caller is to drain the queue}; {0, n} where pair n owns the
-- queue name; {0, 0} where the queue is being drained, or what is to be ended is not what was
-- meant; {0, -1, last} where it would start beyond the log; {0, -2} where there are as many patterns
-- as may be; {0, -3, ID} where that member is of a release that knows no patterns. Only the first is
-- remembered: nothing is written with the others.
-- Cost: about twenty commands on single members of sets and hashes. What may be large (parked
-- messages, a log) is unlinked, which frees it in another thread; only messages that were put back,
-- where a subscription turns to pull, are moved at once, and cost their number.

local RIVALS, NAMES = 39, 9 -- KEYS and ARGV before those of other pairs
local PATTERNS = 10000 -- that there may be
local kind, topic, client, queue = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pair = topic .. '\0' .. client

local function now()
    return clock_now(KEYS[8], ARGV[6])
end

-- Returns whether a living member drains the queue. A mark without its member is taken away.
local function is_held_off()
    local mark = redis.call('HGET', KEYS[10], queue)
    if not mark then
        return false
    end
    if redis.call('HEXISTS', KEYS[11], string.match(mark, '^%S*')) == 1 then
        return true
    end
    redis.call('HDEL', KEYS[10], queue)
    return false
end

-- Returns which other pair owns the queue name, or nil.
local function owner()
    for n = 1, #KEYS - RIVALS do
        if redis.call('ZSCORE', KEYS[RIVALS + n], ARGV[NAMES + n]) then
            return n
        end
    end
    return nil
end

-- Returns whether the list is a pattern's.
local function is_pattern()
    return string.sub(topic, 1, 1) == ' '
end

-- Give the set of patterns another word: it has changed. While there are any the layout says so, and
-- a release that knows none refuses to start.
local function note_patterns()
    local layout = string.match(redis.call('GET', KEYS[30]) or '', '^%d+')
    if redis.call('EXISTS', KEYS[7]) == 1 then
        redis.call('SET', KEYS[29], ARGV[8])
        layout = layout and layout .. '+patterns'
    else
        redis.call('DEL', KEYS[29])
    end
    if layout then
        redis.call('SET', KEYS[30], layout)
    end
end

-- Returns why a pattern cannot be subscribed, as a reply, or nil.
local function pattern_refused()
    local members = redis.call('HGETALL', KEYS[11])
    for at = 1, #members, 2 do
        if not string.match(members[at + 1], ' patterns') then
            return {0, -3, members[at]}
        end
    end
    if redis.call('ZCARD', KEYS[7]) >= PATTERNS and not redis.call('ZSCORE', KEYS[7], topic) then
        return {0, -2}
    end
    return nil
end

-- Count a lane where it stands, or no more.
local function move_lane(position, by)
    local at = standing_of(KEYS[12], KEYS[33], KEYS[34], KEYS[35], topic)
    move_lanes(at, {[string.format('%.0f', position)] = by})
end

-- End the pair's durability; returns the parked messages discarded, or -1 where it was not durable.
local function end_lane()
    local record = redis.call('HGET', KEYS[14], client)
    if not record then
        return -1
    end
    redis.call('HDEL', KEYS[14], client)
    move_lane(position_of(record), -1)
    local parked = redis.call('ZCARD', KEYS[19])
    add_up(KEYS[36], topic, -parked)
    parked = parked + redis.call('ZCARD', KEYS[21])
    redis.call('UNLINK', KEYS[19], KEYS[20], KEYS[21], KEYS[22], KEYS[24], KEYS[32])
    redis.call('HDEL', KEYS[31], client)
    redis.call('HDEL', KEYS[39], client)
    redis.call('ZREM', KEYS[25], pair)
    if redis.call('HLEN', KEYS[14]) == 0 then
        redis.call('ZREM', KEYS[15], topic)
        if not redis.call('HGET', KEYS[12], 'retained') then
            redis.call('UNLINK', KEYS[12], KEYS[13], KEYS[17], KEYS[18], KEYS[23])
            redis.call('UNLINK', KEYS[33], KEYS[34])
            redis.call('ZREM', KEYS[16], topic)
        end
    end
    return parked
end

-- Note that a pair, or its durability alone (then NUL follows), ended with this version: what was
-- counted or done for it is none of a later one's.
local function note_end(ended, version)
    local KEPT, EXTRA = 10000, 1000
    redis.call('ZADD', KEYS[28], version, ended)
    if redis.call('ZCARD', KEYS[28]) > KEPT + EXTRA then
        local gone = redis.call('ZRANGE', KEYS[28], EXTRA - 1, EXTRA - 1, 'WITHSCORES')
        redis.call('ZREMRANGEBYRANK', KEYS[28], 0, EXTRA - 1)
        redis.call('ZADD', KEYS[28], gone[2], '')
    end
end

-- Returns whether the subscription is still the one that is to be ended: a member noticed some time
-- ago that its time was over or its queue full, and it may have been subscribed again since.
local function is_meant()
    if kind == 'expire' then
        local at = redis.call('ZSCORE', KEYS[9], pair)
        return at and tonumber(at) <= now()
    elseif kind == 'overflow' then
        local found = redis.call('HGET', KEYS[2], client)
        local options = found and cjson.decode(found) or {}
        return options.overflow == 'unsubscribe' and (options.made or 0) <= tonumber(ARGV[5])
    end
    return true
end

-- End the pair. The mark is set with the end, so that no change of the queue comes between the two.
local function finish()
    local drainer = kind == 'unsubscribe' and ARGV[5] or ''
    if not is_meant() or (drainer ~= '' and is_held_off()) then
        return {0, 0}
    end
    local existed = redis.call('ZREM', KEYS[1], client)
    redis.call('HDEL', KEYS[2], client)
    local drops = redis.call('HGET', KEYS[3], client)
    if drops then
        redis.call('HDEL', KEYS[3], client)
        add_up(KEYS[37], topic, -tonumber(drops))
    end
    redis.call('ZREM', KEYS[9], pair)
    redis.call('ZREM', KEYS[38], client)
    if redis.call('ZCARD', KEYS[1]) == 0 then
        if redis.call('ZREM', KEYS[7], topic) == 1 and is_pattern() then
            note_patterns()
        end
    end
    -- what a pair that is gone already has left on its queue is of no use, unless another owns it
    local drains = drainer ~= '' and (existed == 1 or not owner())
    if drains and redis.call('HEXISTS', KEYS[11], drainer) == 1 then
        redis.call('HSET', KEYS[10], queue, drainer .. ' ' .. ARGV[9])
    end
    local parked = end_lane()
    local version = change(topic, KEYS[4], KEYS[5], KEYS[6])
    if existed == 1 then
        note_end(pair, version)
    end
    return {version, existed, parked >= 0 and 1 or 0, parked, drains and 1 or 0}
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

-- Returns the log's last sequence where a new lane would start beyond it, or nil.
local function last_before_start(log)
    local start = cjson.decode(ARGV[7])
    local last = log and log.last or 0
    if type(start) == 'table' and start.sequence and start.sequence > last then
        return last
    end
    return nil
end

-- Returns the former options with those that were given in their place.
local function merged(former, given)
    local options = former and cjson.decode(former) or {}
    for key, value in pairs(given) do
        if key == 'durable' and type(value) == 'table' and options.durable then
            for name, choice in pairs(value) do
                options.durable[name] = choice
            end
        elseif value == cjson.null or key == 'durable' and not value then
            options[key] = nil
        else
            options[key] = value
        end
    end
    return options
end

-- Keep the end of a pause: a reading of the clock, or -1 where it has none. A member that delivers
-- then reads the time in its own way; what was asked for, seconds from now, would not tell it when.
local function set_pause(durable)
    local paused = durable.paused
    if paused ~= nil then
        durable.paused = nil
        durable.paused_ms = paused == true and -1
            or paused and math.ceil(now() + 1000 * paused) or nil
    end
end

-- Let a lane be delivered for, or not: no member delivers for a subscription that is read from. The
-- record's new owner fences the member that held the lane.
local function set_pull(pull)
    local record = redis.call('HGET', KEYS[14], client)
    local is_pull = string.sub(record, 1, 5) == 'pull '
    if pull and not is_pull then
        redis.call('HSET', KEYS[14], client, string.format('pull 0 %.0f', position_of(record)))
        if redis.call('ZCARD', KEYS[21]) > 0 then -- what was put back would not be delivered
            local before = redis.call('ZCARD', KEYS[19])
            local parked =
                redis.call('ZUNIONSTORE', KEYS[19], 2, KEYS[19], KEYS[21], 'AGGREGATE', 'MIN')
            add_up(KEYS[36], topic, parked - before)
            redis.call('DEL', KEYS[21])
            redis.call('ZREM', KEYS[25], pair)
        end
    elseif is_pull and not pull then
        -- a receiver may have a job still of who delivered before it was read from
        redis.call('HSET', KEYS[14], client, string.format('? 0 %.0f', position_of(record)))
    end
end

-- Keep a pair's options, and when it ends by itself.
local function keep(options)
    if next(options) then
        redis.call('HSET', KEYS[2], client, cjson.encode(options))
    else
        redis.call('HDEL', KEYS[2], client)
    end
    if options.ttl then
        redis.call('ZADD', KEYS[9], now() + options.ttl * 1000, pair)
    else
        redis.call('ZREM', KEYS[9], pair)
    end
    local paused_ms = options.durable and options.durable.paused_ms
    if paused_ms then
        redis.call('ZADD', KEYS[38], paused_ms < 0 and '+inf' or paused_ms, client)
    else
        redis.call('ZREM', KEYS[38], client)
    end
end

-- Make the pair, or make it again. Everything that may refuse it comes first; from the ZADD on all
-- of it is written.
local function subscribe()
    if is_held_off() then
        return {0, 0}
    end
    local rival = owner()
    if rival then
        return {0, rival}
    end
    local refused = is_pattern() and pattern_refused()
    if refused then
        return refused
    end
    local given = ARGV[5] ~= '{}' and cjson.decode(ARGV[5]) or {}
    local is_new_lane = type(given.durable) == 'table'
        and redis.call('HEXISTS', KEYS[14], client) == 0
    local log = is_new_lane and open_log(KEYS[12], KEYS[13], KEYS[23])
    local last = is_new_lane and last_before_start(log)
    if last then
        return {0, -1, last}
    end
    local added = redis.call('ZADD', KEYS[1], 0, client)
    local former = added == 0 and redis.call('HGET', KEYS[2], client)
    local options = merged(former, given)
    if added == 1 and redis.call('ZADD', KEYS[7], 0, topic) == 1 and is_pattern() then
        note_patterns()
    end
    local parked = -1
    if given.durable == false then
        parked = end_lane()
    elseif is_new_lane then
        log = log or make_log(KEYS[12], KEYS[13], KEYS[23], KEYS[16], topic, ARGV[8])
        local start = start_of(log)
        redis.call('HSET', KEYS[14], client, string.format('- 0 %.0f', start))
        move_lane(start, 1)
        if start < log.last then -- a reading of many positions may miss this one (see slowest)
            redis.call('HINCRBY', KEYS[12], 'joined', 1)
        end
        redis.call('ZADD', KEYS[15], 0, topic)
    end
    if options.durable then
        set_pause(options.durable)
        set_pull(options.durable.pull)
    end
    local version = change(topic, KEYS[4], KEYS[5], KEYS[6])
    if parked >= 0 then
        note_end(pair .. '\0', version)
    end
    -- an overflow that is noticed late ends this very subscription or none
    options.made = options.overflow == 'unsubscribe' and version or nil
    keep(options)
    local is_concerned = (options.durable or given.durable == false) and 1 or 0
    return {version, 1 - added, is_concerned, parked, 0}
end

local found = recall(KEYS[26], ARGV[9])
if found ~= nil then
    return found
end
local reply = kind == 'subscribe' and subscribe() or finish()
if reply[1] == 0 then
    return reply
end
return remember(KEYS[26], KEYS[27], ARGV[9], now(), reply)
