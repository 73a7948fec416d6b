-- What the scripts share that touch a topic's log; put in front of each of them. All of it runs
-- within the script that calls it, so what is read of a log stays true until it is written.
--
-- An entry is {id, {"h", "EPOCH CLOCK OFFSET", "i", INFO, "p", PAYLOAD}}: CLOCK is the members'
-- clock in ms, OFFSET the bytes that were logged before it. Sequences have no gaps but at the
-- beginning. The log is a hash: epoch, base (the first sequence under it), last, first, bytes
-- (logged since the beginning), floor (those that are forgotten), dropped (how many the caps took),
-- capped (the last that they took), run (the server's run id), mark (of the newest block; of no use
-- while the log is empty), joined (counts lanes made that begin before its last), near
-- (where lanes stand, see standing.lua), retained (where it has a retention setting) and the
-- settings themselves.
--
-- Reading an entry reads its payload. So that a search needs not, entries are parted into blocks,
-- of at most 64 entries and 64 KiB, or of one entry; "SEQUENCE CLOCK OFFSET" of each block's first
-- entry is kept apart, in the order of sequences. The first block may have lost its beginning.
-- CLOCK and OFFSET never fall from one entry to the next, which makes a search by either a binary
-- one.
--
-- Cost: a search takes about twenty commands for the marks of a million entries, and six within a
-- block. Everything that deletes has a bound in entries and bytes, and says whether there is more.

local MAX_AGE, MAX_MESSAGES, MAX_BYTES = 120, 1000000, 268435456
local BLOCK_ENTRIES, BLOCK_BYTES = 64, 65536
local LANES = 2000 -- whose positions are read at once: a millisecond
local PLAIN_INFO = 128 -- bytes of an entry's info that are not counted
local FORGOTTEN, FORGOTTEN_BYTES = 100000, 33554432 -- in one go: a few milliseconds

-- Returns the members' clock, in ms: the store's, or the caller's reading where that is ahead.
local function clock_now(key, own)
    return math.max(tonumber(redis.call('GET', key) or 0), tonumber(own))
end

-- Returns the run id of this server. INFO is slow: only where a log is made.
local function run_id()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

-- Returns the log as a table, or nil where there is none.
local function open_log(key, messages, marks)
    local found = redis.call('HMGET', key, 'epoch', 'base', 'last', 'first', 'bytes', 'floor', 'run',
        'max_age', 'max_messages', 'max_bytes', 'retained', 'mark', 'near')
    if not found[1] then
        return nil
    end
    return {
        key = key, messages = messages, marks = marks, epoch = found[1],
        base = tonumber(found[2]), last = tonumber(found[3]), first = tonumber(found[4]),
        bytes = tonumber(found[5]), floor = tonumber(found[6]), run = found[7],
        max_age = tonumber(found[8] or MAX_AGE),
        max_messages = tonumber(found[9] or MAX_MESSAGES),
        max_bytes = tonumber(found[10] or MAX_BYTES),
        retained = found[11], mark = found[12], near = found[13],
    }
end

-- Make a log, which must not be there, and return it.
local function make_log(key, messages, marks, due, topic, epoch)
    redis.call('HSET', key, 'epoch', epoch, 'base', 1, 'last', 0, 'first', 1, 'bytes', 0,
        'floor', 0, 'dropped', 0, 'run', run_id())
    redis.call('ZADD', due, '+inf', topic)
    return open_log(key, messages, marks)
end

-- Returns what an entry counts: its payload, and what its info takes beyond the usual.
local function size_of(info, payload)
    return #payload + math.max(0, #info - PLAIN_INFO)
end

-- Returns a mark as a table, nil for none.
local function parse_mark(text)
    if not text then
        return nil
    end
    local sequence, clock, offset = string.match(text, '^(%d+) (%d+) (%d+)$')
    return {sequence = tonumber(sequence), clock = tonumber(clock), offset = tonumber(offset)}
end

-- Returns the mark of a block by its place in their order, from 0 on; nil behind the last.
local function mark_at(log, rank)
    return parse_mark(redis.call('ZRANGE', log.marks, rank, rank)[1])
end

-- Returns the mark of the block that has this sequence.
local function mark_of(log, sequence)
    return parse_mark(
        redis.call('ZREVRANGEBYSCORE', log.marks, sequence, '-inf', 'LIMIT', 0, 1)[1])
end

-- Returns the clock and the offset of an entry, which must be there.
local function head(log, sequence)
    local entry = redis.call('XRANGE', log.messages, sequence, sequence)[1]
    local clock, offset = string.match(entry[2][2], ' (%d+) (%d+)$')
    return tonumber(clock), tonumber(offset)
end

-- Returns the bytes that were logged before this sequence.
local function offset_of(log, sequence)
    if sequence > log.last then
        return log.bytes
    end
    local mark = mark_of(log, sequence)
    if mark and mark.sequence == sequence then
        return mark.offset
    end
    local _, offset = head(log, sequence)
    return offset
end

-- Returns the first sequence whose entry passes a test of its clock and its offset, last + 1 where
-- none does. All behind one that passes must pass too. No payload of more than a block is read.
local function find(log, passes)
    local low, high = 0, redis.call('ZCARD', log.marks)
    while low < high do
        local middle = math.floor((low + high) / 2)
        local mark = mark_at(log, middle)
        if passes(mark.clock, mark.offset) then
            high = middle
        else
            low = middle + 1
        end
    end
    local behind = mark_at(log, low)
    high = behind and behind.sequence or log.last + 1
    if low == 0 then
        return math.max(high, log.first)
    end
    -- the first that passes is in the block before, or its end
    low = math.max(mark_at(log, low - 1).sequence + 1, log.first)
    while low < high do
        local middle = math.floor((low + high) / 2)
        if passes(head(log, middle)) then
            high = middle
        else
            low = middle + 1
        end
    end
    return low
end

-- Forget entries before this sequence, as many as is done in a moment; returns whether there are
-- more. Entries go first, then marks, except that of the block which now begins the log: it is cut
-- short, and its mark still tells where the next one begins.
local function forget(log, before)
    if before <= log.first then
        return false
    end
    local bound = log.floor + FORGOTTEN_BYTES
    local wanted = before
    before = math.min(before, log.first + FORGOTTEN)
    local floor = offset_of(log, before)
    if floor > bound then
        before = find(log, function(_, offset) return offset >= bound end)
        floor = offset_of(log, before)
    end
    local is_more = before < wanted
    log.first, log.floor = before, floor
    redis.call('XTRIM', log.messages, 'MINID', before)
    if before > log.last then
        redis.call('DEL', log.marks)
    else
        redis.call('ZREMRANGEBYSCORE', log.marks, '-inf', '(' .. mark_of(log, before).sequence)
    end
    redis.call('HSET', log.key, 'first', before, 'floor', log.floor)
    return is_more
end

-- Returns the first sequence that was logged at or after this reading of the clock.
local function first_since(log, since)
    return find(log, function(clock) return clock >= since end)
end

-- Forget what the caps do not allow, whether or not it is done with; returns whether there is more.
local function cap(log)
    local keep = math.max(log.first, log.last - log.max_messages + 1)
    if log.bytes - log.floor > log.max_bytes then
        local fits = find(log, function(_, offset) return log.bytes - offset <= log.max_bytes end)
        keep = math.max(keep, math.min(fits, log.last)) -- the newest stays, whatever its size
    end
    if keep <= log.first then
        return false
    end
    local before = log.first
    local is_more = forget(log, keep)
    redis.call('HINCRBY', log.key, 'dropped', log.first - before)
    redis.call('HSET', log.key, 'capped', string.format('%.0f', log.first - 1))
    return is_more
end

-- Returns the position in a lane's record.
local function position_of(record)
    return tonumber(string.match(record, '(%d+)$'))
end

-- Returns up to where every durable subscription has done with the log. Of many the caller reads
-- the positions, page by page, and "EPOCH JOINED" of the log before: positions rise, and lanes that
-- are made begin behind all of them, but those that JOINED counts. Returns nil where that has to be
-- done, or done again.
local function slowest(log, lanes, mark, position)
    local done = log.last
    if redis.call('HLEN', lanes) > LANES then
        if mark ~= log.epoch .. ' ' .. (redis.call('HGET', log.key, 'joined') or 0) then
            return nil
        end
        return math.min(done, tonumber(position))
    end
    for _, record in ipairs(redis.call('HVALS', lanes)) do
        done = math.min(done, position_of(record))
    end
    return done
end
