-- Read parked messages of one durable subscription, the oldest first.
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages
-- ARGV: 1 client_id  2 the sequence behind which to begin  3 how many at most  4 bytes at most
-- Returns false where there is no such durable subscription; else {1 where there are no more or 0,
-- then {sequence, message} for each}, at least one message where there is one.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return false
end
local most, bound = tonumber(ARGV[3]), tonumber(ARGV[4])
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'LIMIT', 0, most + 1)
local reply, size = {#found > most and 0 or 1}, 0
for at = 1, math.min(#found, most) do
    size = size + redis.call('HSTRLEN', KEYS[3], found[at])
    if size > bound and at > 1 then
        reply[1] = 0
        break
    end
    reply[#reply + 1] = {tonumber(found[at]), redis.call('HGET', KEYS[3], found[at])}
end
return reply
