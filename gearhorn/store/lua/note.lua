-- Keep or forget what is known of messages of one durable subscription, for the member that holds
-- the lane.
--
-- Atomic, because another member could take the lane between the check of its record and the write,
-- and what it read then would be changed behind its back. A message that was parked or put back is
-- told by three keys: a reader between them would find it in the order without its bytes, or not at
-- all and deliver it once more.
--
-- KEYS: 1 the lanes  2 the pair's failed attempts  3 its messages put back  4 those messages
--       5 its parked messages' order  6 what is done beyond its position
--       7 which subscriptions have messages that were put back  8 those that expired while a
--       publisher waited  9 the parked messages of topics (sums.lua)
-- ARGV: 1 client_id  2 the member  3 TERM  4 "fail"; "clear", done with after it had failed;
--       "redriven", done with after it was put back; "late", acknowledged after it was parked; or
--       "lapsed", expired while a publisher waited: the newest of these are kept
--       5 topic  6 what is kept of failed attempts  7… sequences
-- Returns 1, or 0 where the member does not hold the lane under that TERM. Where the answer is lost
-- this is asked again, and may arrive once more after what was written since: so a failed attempt of
-- a message that is done with or parked is not kept, nor one before the last that is.
-- Cost: a command for each sequence that is cleared, up to four for one that failed, up to eight for
-- one that was parked or put back; the caller names 1,000 at most.

local LAPSED = 100

local record = redis.call('HGET', KEYS[1], ARGV[1])
local mine = ARGV[2] .. ' ' .. ARGV[3] .. ' '
if not record or string.sub(record, 1, #mine) ~= mine then
    return 0
end
local position = tonumber(string.match(record, '(%d+)$'))

-- Returns how many attempts the text of a failure history counts.
local function attempts_of(text)
    return tonumber(string.match(text, '"attempts":(%d+)'))
end

-- Returns whether a failed attempt tells something new of a message.
local function is_news(sequence, text)
    local former = redis.call('HGET', KEYS[2], sequence)
    if former then
        return attempts_of(text) >= attempts_of(former)
    end
    return redis.call('ZSCORE', KEYS[3], sequence) -- it was put back
        or tonumber(sequence) > position and not redis.call('ZSCORE', KEYS[5], sequence)
        and not redis.call('ZSCORE', KEYS[6], sequence .. '-' .. sequence)
end

for at = 7, #ARGV do
    local sequence = ARGV[at]
    if ARGV[4] == 'fail' then
        if is_news(sequence, ARGV[6]) then
            redis.call('HSET', KEYS[2], sequence, ARGV[6])
        end
    elseif ARGV[4] == 'clear' then
        redis.call('HDEL', KEYS[2], sequence)
    elseif ARGV[4] == 'lapsed' then
        redis.call('ZADD', KEYS[8], sequence, sequence)
    else
        local was_back = redis.call('ZREM', KEYS[3], sequence) == 1
        local was_parked = ARGV[4] == 'late' and redis.call('ZREM', KEYS[5], sequence) == 1
        if was_back or was_parked then
            forget_parked(KEYS[4], sequence)
            add_up(KEYS[9], ARGV[5], was_parked and -1 or 0)
            if ARGV[4] == 'late' and tonumber(sequence) > position then
                redis.call('ZADD', KEYS[6], sequence, sequence .. '-' .. sequence)
            end
        end
        if was_back and redis.call('ZCARD', KEYS[3]) == 0 then
            redis.call('ZREM', KEYS[7], ARGV[5] .. '\0' .. ARGV[1])
        end
    end
end
if ARGV[4] == 'lapsed' then
    redis.call('ZREMRANGEBYRANK', KEYS[8], 0, -LAPSED - 1)
end
return 1
