-- Set a message aside for one durable subscription. As many are kept as the topic's log may have,
-- and as many bytes; the oldest go, and count as dropped.
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages  4 the failed attempts
--       5 those put back  6 the log  7 the topic's drops
-- ARGV: 1 client_id  2 the member  3 TERM  4 sequence  5 the message
-- Returns 0 where the member does not hold the lane under that TERM, else 1 and 1 for each that goes.

local GOES = 1000 -- at most, for one that comes

local record = redis.call('HGET', KEYS[1], ARGV[1])
local mine = ARGV[2] .. ' ' .. ARGV[3] .. ' '
if not record or string.sub(record, 1, #mine) ~= mine then
    return 0
end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[4])
keep_parked(KEYS[3], ARGV[4], ARGV[5])
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[4])

local caps = redis.call('HMGET', KEYS[6], 'max_messages', 'max_bytes')
local most, size = tonumber(caps[1] or MAX_MESSAGES), tonumber(caps[2] or MAX_BYTES)
local count, gone = redis.call('ZCARD', KEYS[2]), 0
while count > 1 and gone < GOES
    and (count > most or tonumber(redis.call('HGET', KEYS[3], 'bytes') or 0) > size) do
    local oldest = redis.call('ZPOPMIN', KEYS[2])[1]
    forget_parked(KEYS[3], oldest)
    count, gone = count - 1, gone + 1
end
if gone > 0 then
    redis.call('HINCRBY', KEYS[7], ARGV[1], gone)
end
return 1 + gone
