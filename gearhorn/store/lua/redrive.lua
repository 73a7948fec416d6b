-- Put parked messages back, or purge them, the oldest first and once.
--
-- What is put back moves from one set of sequences to another; its bytes stay where they are. What
-- is purged beyond the position is noted as done there, so that the lane's next owner passes over
-- it in the log. Redrives are counted, and the subscription is listed under the number of its last
-- one, by which members find out without hearing the event.
--
-- Atomic, because a message that is in neither set between two commands would be read in neither by
-- an owner that takes the lane just then, and never be delivered. And the number of the request is
-- kept with its work: a repetition would take the next messages, which were not asked for.
--
-- KEYS: 1 the lanes  2 the parked messages' order  3 the messages  4 those put back
--       5 the requests of the member's process  6 which subscriptions have messages that were put
--       back  7 counts those redrives  8 what is done beyond its position  9 all askers
--       10 the parked messages of topics (sums.lua)
-- ARGV: 1 client_id  2 "redrive" or "purge"  3 the last sequence  4 how many at most
--       5 the channel of events  6 topic  7 the number of this request  8 the sequence behind which to
--       begin
-- Returns {how many, the last of them}, false where there is no such durable subscription, {-1}
-- where messages would be put back that no member delivers: the subscription is read from.
-- Cost: two to six commands for each message; the caller asks for 1,000 at most, which is 2 ms.

local kept = recall(KEYS[5], tonumber(ARGV[7]))
if kept then
    local count, last = string.match(kept, '^(%d+) (%d+)$')
    if not count then
        return redis.error_reply('ERR the request came too late')
    end
    return {tonumber(count), tonumber(last)}
end
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then
    return false
end
if ARGV[2] == 'redrive' and string.sub(record, 1, 5) == 'pull ' then
    return {-1}
end
local position = string.match(record, '(%d+)$')
if ARGV[2] == 'purge' then
    redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', position)
end
local after = '(' .. ARGV[8]
local chosen = redis.call('ZRANGEBYSCORE', KEYS[2], after, ARGV[3], 'LIMIT', 0, ARGV[4])
for _, sequence in ipairs(chosen) do
    redis.call('ZREM', KEYS[2], sequence)
    if ARGV[2] == 'redrive' then
        redis.call('ZADD', KEYS[4], sequence, sequence)
    else
        forget_parked(KEYS[3], sequence)
        if tonumber(sequence) > tonumber(position) then
            -- the lane's next owner is not to find it in the log
            redis.call('ZADD', KEYS[8], sequence, sequence .. '-' .. sequence)
        end
    end
end
add_up(KEYS[10], ARGV[6], -#chosen)
if #chosen > 0 and ARGV[2] == 'redrive' then
    redis.call('ZADD', KEYS[6], redis.call('INCR', KEYS[7]), ARGV[6] .. '\0' .. ARGV[1])
    redis.pcall('PUBLISH', ARGV[5], 'redriven\0' .. ARGV[6] .. '\0' .. ARGV[1])
end
local last = chosen[#chosen] or ARGV[8]
remember(KEYS[5], KEYS[9], tonumber(ARGV[7]), #chosen .. ' ' .. last)
return {#chosen, tonumber(last)}
