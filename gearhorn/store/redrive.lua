-- Put parked messages back, or purge them, the oldest first.
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages  4 those put back
-- ARGV: 1 client_id  2 "redrive" or "purge"  3 how many at most, -1 is all
--       4 the channel of events  5 topic
-- Returns how many, or false where there is no such durable subscription.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return false
end
local most = tonumber(ARGV[3])
local chosen = redis.call('ZRANGE', KEYS[2], 0, most < 0 and -1 or most - 1)
for _, sequence in ipairs(chosen) do
    redis.call('ZREM', KEYS[2], sequence)
    if ARGV[2] == 'redrive' then
        redis.call('ZADD', KEYS[4], sequence, sequence)
    else
        redis.call('HDEL', KEYS[3], sequence)
    end
end
if #chosen > 0 and ARGV[2] == 'redrive' then
    redis.call('PUBLISH', ARGV[4], 'redriven\0' .. ARGV[5] .. '\0' .. ARGV[1])
end
return #chosen
