-- Append messages to a topic's log, in order and once.
--
-- A message gets the next sequence, unless its dedup key was logged within two minutes: then the
-- former place is returned. If the server's run id is another one than the log's, a new epoch
-- begins first, since the restart may have lost the end of the log.
--
-- Atomic, because the sequence is read, given and raised: two appends between these steps would
-- give one number twice. A plain XADD could number by itself, but not tell repeats, keep the marks
-- of blocks, hold the caps, and publish the number that it gave. What became of the request is kept
-- in the same step (asked.lua); a second command would leave a gap in which the messages are logged
-- and the caller, asking again, logs them once more.
--
-- KEYS: 1 the log  2 its messages  3 the marks of its blocks  4 when which unique was logged
--       5 where each was logged  6 the clock  7 when which log is due for pruning
--       8 the requests of the member's process  9 all askers  10 the lags of topics (sums.lua)
-- ARGV: 1 topic  2 the caller's reading of the clock, ms  3 a fresh epoch  4 the channel of events
--       5 the number of this request  6 that of the topic's request before it where that may not
--       have been carried out, or 0; "void" gives this request up, unless it has been carried out
--       7 the run id of the server, which each new connection asks for once: INFO costs more than
--       XADD  8… for each message its dedup key ('' is none), its info and its payload
-- Returns false where the topic has no log; "void" where the request was given up, or the one
-- before it was not carried out; else {epoch, for each message its sequence, or "SEQUENCE EPOCH"
-- where it had been logged before}.
-- Cost: an XADD for each message, up to four more commands for one with a dedup key, a dozen for
-- the call. Redis copies each payload twice on the way, for the arguments and for the command: that
-- is what holds the store where messages are large. The caller sends 500 messages and 8 MiB at
-- most.

local REMEMBERED = 120000 -- ms: for how long a dedup key tells repeats

local number = tonumber(ARGV[5])

-- Keep the reply, should it be asked for again; of messages that follow each other in few bytes.
local function finish(reply, first, count)
    local result = 'none'
    if reply and count == #reply - 1 then
        result = string.format('run %.0f %d %s', first, count, reply[1])
    elseif reply then
        result = 'all ' .. cmsgpack.pack(reply)
    end
    remember(KEYS[8], KEYS[9], number, result)
    return reply
end

-- Returns the reply that finish kept.
local function again(result)
    if result == 'none' then
        return false
    elseif result == 'void' then
        return result
    end
    local first, count, epoch = string.match(result, '^run (%d+) (%d+) (%x+)$')
    if not first then
        return cmsgpack.unpack(string.sub(result, 5))
    end
    local reply = {epoch}
    for sequence = tonumber(first), tonumber(first) + tonumber(count) - 1 do
        reply[#reply + 1] = sequence
    end
    return reply
end

local kept = recall(KEYS[8], number)
if kept then
    return again(kept)
end
if ARGV[6] == 'void' then
    remember(KEYS[8], KEYS[9], number, 'void')
    return 'void'
end
-- the messages of a topic are logged in the order in which they were taken, or not at all
if ARGV[6] ~= '0' and (recall(KEYS[8], tonumber(ARGV[6])) or 'void') == 'void' then
    return 'void'
end

local log = open_log(KEYS[1], KEYS[2], KEYS[3])
if not log then
    return finish(false)
end
local now = clock_now(KEYS[6], ARGV[2])
local was_idle = log.first >= log.last
local run = ARGV[7]
if run ~= log.run then
    -- the server was restarted or another took over: a tail may be lost whose numbers were given
    log.epoch = ARGV[3]
    redis.call('HSET', log.key, 'epoch', log.epoch, 'base', log.last + 1, 'run', run)
end

-- Forget dedup keys that were logged long ago, more than this call adds; where nothing comes any
-- more pruning does it.
local function forget_uniques()
    local old = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - REMEMBERED, 'LIMIT', 0,
        100 + 2 * (#ARGV - 7) / 3)
    if #old > 0 then
        redis.call('ZREM', KEYS[4], unpack(old))
        redis.call('HDEL', KEYS[5], unpack(old))
    end
end

local reply = {log.epoch}
local before = log.last
local place = string.format('%s %.0f ', log.epoch, now)
local has_uniques = false
-- locals are cheaper than fields of a table: the loop is most of an append of many
local last, bytes = log.last, log.bytes
local mark = before >= log.first and parse_mark(log.mark)
-- the newest block has room for sequences before, and offsets up to these
local block_end = mark and mark.sequence + BLOCK_ENTRIES or 0
local block_bytes = mark and mark.offset + BLOCK_BYTES or 0
for at = 8, #ARGV, 3 do
    local unique, info, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local former = false
    if unique ~= '' then
        if not has_uniques then -- once, and not where no message has a key
            has_uniques = true
            forget_uniques()
        end
        former = redis.call('HGET', KEYS[5], unique)
        if former and tonumber(redis.call('ZSCORE', KEYS[4], unique) or 0) <= now - REMEMBERED then
            former = false
        end
    end
    if former then
        reply[#reply + 1] = former
    else
        last = last + 1
        local offset = string.format('%.0f', bytes)
        local size = #payload
        if #info > PLAIN_INFO then
            size = size_of(info, payload)
        end
        if last >= block_end or bytes + size > block_bytes then
            block_end, block_bytes = last + BLOCK_ENTRIES, bytes + BLOCK_BYTES
            log.mark = string.format('%.0f %.0f ', last, now) .. offset
            redis.call('ZADD', KEYS[3], last, log.mark)
        end
        redis.call('XADD', KEYS[2], last .. '-0', 'h', place .. offset, 'i', info, 'p', payload)
        bytes = bytes + size
        if unique ~= '' then
            redis.call('ZADD', KEYS[4], now, unique)
            redis.call('HSET', KEYS[5], unique, last .. ' ' .. log.epoch)
        end
        reply[#reply + 1] = last
    end
end
if last == before then
    return finish(reply)
end
log.last, log.bytes = last, bytes
redis.call('HSET', log.key, 'last', last, 'bytes', bytes, 'mark', log.mark)
if log.near then -- it has lanes, and the slowest is further behind now
    keep_lag(KEYS[10], ARGV[1], last - tonumber(string.match(log.near, ' (%d+)')))
end
-- an empty log is never due; the first message makes it so
if was_idle and redis.call('ZSCORE', KEYS[7], ARGV[1]) == 'inf' then
    redis.call('ZADD', KEYS[7], now + 1000 * math.min(2 * log.max_age, 60), ARGV[1])
end

cap(log)
-- an event only hastens what is read anyhow: a user that may not publish can still append
redis.pcall('PUBLISH', ARGV[4], 'appended\0' .. ARGV[1] .. '\0' .. last .. '\0' .. log.first)
return finish(reply, before + 1, last - before)
