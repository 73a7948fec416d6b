-- Keep or forget what failed attempts of one message left behind, for the member that holds the lane.
-- KEYS: 1 the lanes  2 the pair's failed attempts  3 its messages put back  4 those messages
-- ARGV: 1 client_id  2 the member  3 TERM  4 "fail", "clear" or "redriven" (done with after it was
--       put back)  5 sequence  6 what is kept
-- Returns 1, or 0 where the member does not hold the lane under that TERM.

local record = redis.call('HGET', KEYS[1], ARGV[1])
local mine = ARGV[2] .. ' ' .. ARGV[3] .. ' '
if not record or string.sub(record, 1, #mine) ~= mine then
    return 0
end
if ARGV[4] == 'fail' then
    redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
elseif ARGV[4] == 'clear' then
    redis.call('HDEL', KEYS[2], ARGV[5])
else
    redis.call('ZREM', KEYS[3], ARGV[5])
    forget_parked(KEYS[4], ARGV[5])
end
return 1
