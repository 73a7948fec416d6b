-- Forget what every subscription has done with and is older than the log's max_age, the newest
-- message excepted, and what the caps do not allow; and decide when the log is due next.
--
-- Atomic, because a durable subscription that is made between the reading of the positions and the
-- deletion could begin with what is deleted. All members prune: one that finds the log due and one
-- that sets when it is due next must be the same, or both would do the work.
--
-- KEYS: 1 the log  2 its messages  3 the marks of its blocks  4 the lanes
--       5 when which unique was logged  6 where each was  7 the clock  8 when which log is due
-- ARGV: 1 topic  2 the caller's reading of the clock, ms  3 how many at most
--       4 the mark and 5 the position of a reading of many lanes (see slowest), or ''
-- Returns how many are forgotten, -1 where it was not due, -2 where the lanes are to be read first.
-- Cost: up to 2,000 positions read, 1,000 dedup keys and, as the caller asks, 10,000 entries
-- forgotten, which is 2 ms; what the caps do not allow goes up to 100,000 entries or 32 MiB.

local READING = 2000 -- ms: another member reads them if the caller has not done so by then

local log = open_log(KEYS[1], KEYS[2], KEYS[3])
if not log then
    redis.call('ZREM', KEYS[8], ARGV[1])
    return -1
end
local now = clock_now(KEYS[7], ARGV[2])
local due = redis.call('ZSCORE', KEYS[8], ARGV[1])
if ARGV[4] == '' and due and tonumber(due) > now then
    return -1 -- another member was faster
end
local limit = tonumber(ARGV[3])
local old = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now - 120000, 'LIMIT', 0, 1000)
if #old > 0 then
    redis.call('ZREM', KEYS[5], unpack(old))
    redis.call('HDEL', KEYS[6], unpack(old))
end
local before = log.first
local is_more = log.first <= log.last and cap(log)
local done = slowest(log, KEYS[4], ARGV[4], ARGV[5])
if not done then
    redis.call('ZADD', KEYS[8], now + READING, ARGV[1])
    return -2
end
local keep = math.min(done + 1, log.first + limit, log.last)
if keep > log.first then
    is_more = forget(log, math.min(keep, first_since(log, now - 1000 * log.max_age))) or is_more
end
local count = log.first - before
if count >= limit or is_more or #old == 1000 then
    redis.call('ZADD', KEYS[8], now, ARGV[1]) -- there may be more
elseif log.first >= log.last and redis.call('ZCARD', KEYS[5]) == 0 then
    redis.call('ZADD', KEYS[8], '+inf', ARGV[1])
else
    redis.call('ZADD', KEYS[8], now + 1000 * math.min(2 * log.max_age, 60), ARGV[1])
end
return count
