-- Set a message aside for one durable subscription. Its payload is copied from the log, or from
-- where it was put back: it does not travel. As many are kept as the topic's log may have, and as
-- many bytes; the oldest go, and count as dropped. One that goes beyond the position is noted as done
-- there, so that the lane's next owner passes over it in the log.
--
-- Atomic, because another member could take the lane between the check of its record and the write,
-- and deliver the message while it is parked. A message that was put back moves to the parked ones:
-- between two commands it would be in both places, and be delivered though it is parked, or in
-- none, and be lost. The caps are held in the same step, so that no burst of failures outruns them.
--
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages  4 the failed attempts
--       5 those put back  6 the log  7 the topic's drops  8 the log's messages
--       9 which subscriptions have messages that were put back  10 what is done beyond the position
--       11 the parked messages and 12 the drops of topics (sums.lua)
-- ARGV: 1 client_id  2 the member  3 TERM  4 sequence  5 topic  6 the message as it is kept, up to
--       its payload  7 the payload's length
-- Returns 0 where the member does not hold the lane under that TERM, -1 where the message is no
-- more, else 1 plus the number of those that go. Where the answer is lost this is asked again: what
-- was put back or purged meanwhile stays so.
-- Cost: about ten commands and a copy of the payload; at most 1,000 old messages go with it.

local GOES = 1000 -- at most, for one that comes

-- Returns what goes in front of a payload, the last of a message, as a binary string of
-- MessagePack.
local function header_of(payload)
    if #payload < 256 then
        return struct.pack('>BB', 0xc4, #payload)
    elseif #payload < 65536 then
        return struct.pack('>BI2', 0xc5, #payload)
    end
    return struct.pack('>BI4', 0xc6, #payload)
end

local record = redis.call('HGET', KEYS[1], ARGV[1])
local mine = ARGV[2] .. ' ' .. ARGV[3] .. ' '
if not record or string.sub(record, 1, #mine) ~= mine then
    return 0
end
local size = tonumber(ARGV[7])
local payload
local kept = redis.call('HGET', KEYS[3], ARGV[4])
local is_back = redis.call('ZSCORE', KEYS[5], ARGV[4])
if is_back and kept and string.sub(kept, 1, #ARGV[6]) == ARGV[6] then
    return 1 -- it was put back since this set it aside
end
-- what is not behind the position was put back
local position = string.match(record, '(%d+)$')
local is_old = tonumber(ARGV[4]) <= tonumber(position)
if not kept and (is_old and not is_back
    or redis.call('ZSCORE', KEYS[10], ARGV[4] .. '-' .. ARGV[4])) then
    return 1 -- it was purged since
end
if kept then
    payload = string.sub(kept, #kept - size + 1)
else
    local entry = redis.call('XRANGE', KEYS[8], ARGV[4], ARGV[4])[1]
    payload = entry and entry[2][6]
end
redis.call('HDEL', KEYS[4], ARGV[4])
if payload then
    add_up(KEYS[11], ARGV[5], redis.call('ZADD', KEYS[2], ARGV[4], ARGV[4]))
    keep_parked(KEYS[3], ARGV[4], ARGV[6] .. header_of(payload) .. payload)
end
if redis.call('ZREM', KEYS[5], ARGV[4]) == 1 and redis.call('ZCARD', KEYS[5]) == 0 then
    redis.call('ZREM', KEYS[9], ARGV[5] .. '\0' .. ARGV[1])
end
if not payload then
    return -1
end

local caps = redis.call('HMGET', KEYS[6], 'max_messages', 'max_bytes')
local limit, bytes = tonumber(caps[1] or MAX_MESSAGES), tonumber(caps[2] or MAX_BYTES)
local count, gone = redis.call('ZCARD', KEYS[2]), 0
while count > 1 and gone < GOES
    and (count > limit or tonumber(redis.call('HGET', KEYS[3], 'bytes') or 0) > bytes) do
    local oldest = redis.call('ZPOPMIN', KEYS[2])[1]
    forget_parked(KEYS[3], oldest)
    if tonumber(oldest) > tonumber(position) then
        redis.call('ZADD', KEYS[10], oldest, oldest .. '-' .. oldest)
    end
    count, gone = count - 1, gone + 1
end
if gone > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[10], '-inf', position) -- the position covers them
    redis.call('HINCRBY', KEYS[7], ARGV[1], gone)
    add_up(KEYS[12], ARGV[5], gone)
    add_up(KEYS[11], ARGV[5], -gone)
end
return 1 + gone
