-- What the scripts share that touch a topic's log; put in front of each of them.
-- An entry is {id, {"h", "EPOCH CLOCK OFFSET", "i", INFO, "p", PAYLOAD}}: CLOCK is the members' clock
-- in ms, OFFSET the bytes that were logged before it. Sequences have no gaps but at the beginning.
-- The log is a hash: epoch, base (the first sequence under it), last, first, bytes (logged since the
-- beginning), floor (those that are forgotten), dropped (by the caps), run (the server's run id),
-- retained (where it has a retention setting) and the settings themselves.

local MAX_AGE, MAX_MESSAGES, MAX_BYTES = 120, 1000000, 268435456 -- PROTOCOL §6

local function clock_now(key, own)
    return math.max(tonumber(redis.call('GET', key) or 0), tonumber(own))
end

local function run_id()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

-- Returns the log as a table, or nil where there is none.
local function open_log(key)
    local names = {'epoch', 'base', 'last', 'first', 'bytes', 'floor', 'run', 'max_age',
        'max_messages', 'max_bytes', 'retained'}
    local found = redis.call('HMGET', key, unpack(names))
    if not found[1] then
        return nil
    end
    local log = {key = key, epoch = found[1], run = found[7], retained = found[11]}
    for at, name in ipairs({'base', 'last', 'first', 'bytes', 'floor'}) do
        log[name] = tonumber(found[at + 1])
    end
    log.max_age = tonumber(found[8] or MAX_AGE)
    log.max_messages = tonumber(found[9] or MAX_MESSAGES)
    log.max_bytes = tonumber(found[10] or MAX_BYTES)
    return log
end

local function make_log(key, due, topic, epoch)
    redis.call('HSET', key, 'epoch', epoch, 'base', 1, 'last', 0, 'first', 1, 'bytes', 0,
        'floor', 0, 'dropped', 0, 'run', run_id())
    redis.call('ZADD', due, '+inf', topic)
    return open_log(key)
end

local function head(entry)
    local clock, offset = string.match(entry[2][2], ' (%d+) (%d+)$')
    return tonumber(clock), tonumber(offset)
end

local function entry_at(messages, sequence)
    return redis.call('XRANGE', messages, sequence, '+', 'COUNT', 1)[1]
end

-- Forget every entry before this sequence.
local function forget(log, messages, before)
    if before <= log.first then
        return
    end
    redis.call('XTRIM', messages, 'MINID', before)
    local rest = entry_at(messages, before)
    log.first, log.floor = before, log.bytes
    if rest then
        local _, offset = head(rest)
        log.floor = offset
    end
    redis.call('HSET', log.key, 'first', log.first, 'floor', log.floor)
end

-- Returns the first sequence that was logged at or after this reading of the clock.
local function first_since(log, messages, clock)
    local low, high = log.first, log.last + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        local logged = head(entry_at(messages, middle))
        if logged < clock then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

-- Forget what the caps do not allow, whoever has not done with it.
local function cap(log, messages)
    local keep = math.max(log.first, log.last - log.max_messages + 1)
    if log.bytes - log.floor > log.max_bytes then
        local low, high = keep, log.last -- the newest message stays, whatever its size
        while low < high do
            local middle = math.floor((low + high) / 2)
            local _, offset = head(entry_at(messages, middle))
            if log.bytes - offset > log.max_bytes then
                low = middle + 1
            else
                high = middle
            end
        end
        keep = low
    end
    if keep > log.first then
        redis.call('HINCRBY', log.key, 'dropped', keep - log.first)
        forget(log, messages, keep)
    end
end

local function position_of(record)
    return tonumber(string.match(record, '(%d+)$'))
end

-- Returns up to where every durable subscription has done with the log.
local function slowest(log, lanes)
    local done = log.last
    for _, record in ipairs(redis.call('HVALS', lanes)) do
        done = math.min(done, position_of(record))
    end
    return done
end
