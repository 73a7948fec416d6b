-- Forget what every subscription has done with and is older than the log's max_age.
-- KEYS: 1 the log  2 its messages  3 the lanes  4 when which unique was logged  5 where each was
--       6 the clock  7 when which log is due
-- ARGV: 1 topic  2 the caller's reading of the clock, ms  3 how many at most
-- Returns how many are forgotten, or -1 where it was not due.

local log = open_log(KEYS[1])
if not log then
    redis.call('ZREM', KEYS[7], ARGV[1])
    return -1
end
local now = clock_now(KEYS[6], ARGV[2])
local due = redis.call('ZSCORE', KEYS[7], ARGV[1])
if due and tonumber(due) > now then
    return -1 -- another member was faster
end
local most = tonumber(ARGV[3])
local old = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - 120000, 'LIMIT', 0, 1000)
if #old > 0 then
    redis.call('ZREM', KEYS[4], unpack(old))
    redis.call('HDEL', KEYS[5], unpack(old))
end
local before = log.first
local keep = math.min(slowest(log, KEYS[3]) + 1, before + most)
if keep > before then
    keep = math.min(keep, first_since(log, KEYS[2], now - 1000 * log.max_age))
    forget(log, KEYS[2], keep)
end
local count = log.first - before
if count == most or #old == 1000 then
    redis.call('ZADD', KEYS[7], now, ARGV[1]) -- there may be more
elseif log.first > log.last and redis.call('ZCARD', KEYS[4]) == 0 then
    redis.call('ZADD', KEYS[7], '+inf', ARGV[1])
else
    redis.call('ZADD', KEYS[7], now + 1000 * math.min(2 * log.max_age, 60), ARGV[1])
end
return count
