-- Read parked messages of one durable subscription, the oldest first.
--
-- Atomic, because a message may be put back, purged or dropped between the reading of the order and
-- that of its bytes: the page would name messages without any. The sizes are asked for before the
-- bytes, so that a page of large messages ends in time, and they hold only in the same step.
--
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages
-- ARGV: 1 client_id  2 the sequence behind which to begin  3 how many at most  4 bytes at most
-- Returns false where there is no such durable subscription; else {1 where there are no more or 0,
-- then {sequence, message} for each}, at least one message where there is one.
-- Cost: two commands for each message; the caller asks for 500 and 8 MiB at most.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return false
end
local limit, bound = tonumber(ARGV[3]), tonumber(ARGV[4])
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'LIMIT', 0, limit + 1)
local reply, size = {#found > limit and 0 or 1}, 0 -- one more is asked for, to know if it is there
for at = 1, math.min(#found, limit) do
    size = size + redis.call('HSTRLEN', KEYS[3], found[at])
    if size > bound and at > 1 then
        reply[1] = 0
        break
    end
    reply[#reply + 1] = {tonumber(found[at]), redis.call('HGET', KEYS[3], found[at])}
end
return reply
