-- Change a topic's retention settings; make its log, or end it.
--
-- Atomic, because the log begins with its first setting or durable subscription and ends with the
-- last of both: a subscription that is made between the check and the deletion would lose its log.
-- The version rises in the same step, since members learn by it whether the topic has a log.
--
-- KEYS: 1 the log  2 its messages  3 the lanes  4 when which log is due  5 when which unique was
--       logged  6 where each was  7 the version  8 the change log  9 its floor  10 the clock
--       11 the marks of the log's blocks  12 what became of requests  13 when each was answered
-- ARGV: 1 topic  2 the settings given, as JSON; null returns to the default  3 a fresh epoch
--       4 the caller's reading of the clock, ms  5 the request's id, or ''
-- Returns the new version. Without any setting left the log goes with its last durable
-- subscription.
-- Cost: about twenty commands. A log that goes is unlinked; of one that has become too large up to
-- 100,000 entries or 32 MiB go at once, and pruning is due for the rest.

local found = recall(KEYS[12], ARGV[5])
if found ~= nil then
    return found
end
local given = cjson.decode(ARGV[2])
local log = open_log(KEYS[1], KEYS[2], KEYS[11])
local is_retained = log and log.retained or next(given) == nil
for key, value in pairs(given) do
    if value ~= cjson.null then
        is_retained = true
    end
end
if is_retained or log then
    log = log or make_log(KEYS[1], KEYS[2], KEYS[11], KEYS[4], ARGV[1], ARGV[3])
    for key, value in pairs(given) do
        if value == cjson.null then
            redis.call('HDEL', KEYS[1], key)
        else
            redis.call('HSET', KEYS[1], key, string.format('%.17g', value))
        end
    end
    local left = redis.call('HMGET', KEYS[1], 'max_age', 'max_messages', 'max_bytes')
    if next(given) == nil or left[1] or left[2] or left[3] then
        redis.call('HSET', KEYS[1], 'retained', 1)
    else
        redis.call('HDEL', KEYS[1], 'retained')
        if redis.call('HLEN', KEYS[3]) == 0 then
            redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[5], KEYS[6], KEYS[11])
            redis.call('ZREM', KEYS[4], ARGV[1])
        end
    end
    log = open_log(KEYS[1], KEYS[2], KEYS[11]) -- the new bounds hold now
    if log and log.first <= log.last then
        cap(log) -- what is too much in one go is pruned
        redis.call('ZADD', KEYS[4], clock_now(KEYS[10], ARGV[4]), ARGV[1])
    end
end
local version = change(ARGV[1], KEYS[7], KEYS[8], KEYS[9])
return remember(KEYS[12], KEYS[13], ARGV[5], clock_now(KEYS[10], ARGV[4]), version)
