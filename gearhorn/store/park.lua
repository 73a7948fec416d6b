-- Set a message aside for one durable subscription.
-- KEYS: 1 the lanes  2 its parked messages' order  3 the messages  4 its failed attempts
--       5 those put back
-- ARGV: 1 client_id  2 the member  3 TERM  4 sequence  5 the message
-- Returns 1, or 0 where the member does not hold the lane under that TERM.

local record = redis.call('HGET', KEYS[1], ARGV[1])
local mine = ARGV[2] .. ' ' .. ARGV[3] .. ' '
if not record or string.sub(record, 1, #mine) ~= mine then
    return 0
end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[4], ARGV[5])
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[4])
return 1
