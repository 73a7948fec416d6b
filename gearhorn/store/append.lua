-- Append messages to a topic's log, atomically (PROTOCOL §6).
-- KEYS: 1 the log  2 its messages  3 when which unique was logged  4 where each was logged
--       5 the clock  6 when which log is due for pruning
-- ARGV: 1 topic  2 the caller's reading of the clock, ms  3 a fresh epoch  4 the channel of events
--       5… for each message what tells repeats ('' is nothing), its info and its payload
-- Returns false where the topic has no log; else {epoch, for each message its sequence, or
-- "SEQUENCE EPOCH" where it had been logged before}.

local REMEMBERED = 120000 -- ms, PROTOCOL §6

local log = open_log(KEYS[1])
if not log then
    return false
end
local now = clock_now(KEYS[5], ARGV[2])
local was_idle = log.first > log.last
local run = run_id()
if run ~= log.run then
    -- the server was restarted or another took over: a tail may be lost whose numbers were given
    log.epoch = ARGV[3]
    redis.call('HSET', log.key, 'epoch', log.epoch, 'base', log.last + 1, 'run', run)
end

local count = (#ARGV - 4) / 3
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - REMEMBERED, 'LIMIT', 0, 100 + 2 * count)
if #old > 0 then
    redis.call('ZREM', KEYS[3], unpack(old))
    redis.call('HDEL', KEYS[4], unpack(old))
end

local reply = {log.epoch}
local before = log.last
local place = string.format('%s %.0f ', log.epoch, now)
for at = 5, #ARGV, 3 do
    local unique, info, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local former = false
    if unique ~= '' then
        former = redis.call('HGET', KEYS[4], unique)
        if former and tonumber(redis.call('ZSCORE', KEYS[3], unique) or 0) <= now - REMEMBERED then
            former = false
        end
    end
    if former then
        reply[#reply + 1] = former
    else
        log.last = log.last + 1
        local header = place .. string.format('%.0f', log.bytes)
        redis.call('XADD', KEYS[2], log.last .. '-0', 'h', header, 'i', info, 'p', payload)
        log.bytes = log.bytes + #payload
        if unique ~= '' then
            redis.call('ZADD', KEYS[3], now, unique)
            redis.call('HSET', KEYS[4], unique, log.last .. ' ' .. log.epoch)
        end
        reply[#reply + 1] = log.last
    end
end
if log.last == before then
    return reply
end
redis.call('HSET', log.key, 'last', log.last, 'bytes', log.bytes)
if was_idle then
    redis.call('ZADD', KEYS[6], now + 1000 * math.min(2 * log.max_age, 60), ARGV[1])
end

cap(log, KEYS[2])
redis.call('PUBLISH', ARGV[4], 'appended\0' .. ARGV[1] .. '\0' .. log.last)
return reply
