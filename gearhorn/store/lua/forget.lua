-- Forget what became of the requests of askers that have asked nothing for a day.
--
-- An asker's score in the set is 0 after each request. A call gives the present clock to those that
-- have 0; one that still has that clock a day later has asked nothing since. It takes two calls to
-- forget one, because a script has to be given the names of its keys: the first names it, the
-- second is given its key.
--
-- Atomic, because an asker may ask between the check of its score and the deletion: its request's
-- result would be deleted with the rest, and the repetition of that request carried out again. For
-- the same reason the second call checks the score once more.
--
-- KEYS: 1 the askers  2 the clock  3… what became of the requests of those that a former call named
-- ARGV: 1 the caller's reading of the clock, ms; its own may have stood still for long, so the
--       higher one of it and the store's counts
-- Returns the keys of askers to be forgotten in the next call, unless they ask meanwhile.
-- Cost: 1,000 askers noted, 100 forgotten and 100 named at most.

local KEPT_MS = 86400000 -- an asker may be frozen, or cut off, and ask again
local NOTED, NAMED = 1000, 100 -- at once

local clock = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[1]))
for at = 3, #KEYS do
    local seen = tonumber(redis.call('ZSCORE', KEYS[1], KEYS[at]) or 0)
    if seen > 0 and seen <= clock - KEPT_MS then
        redis.call('UNLINK', KEYS[at])
        redis.call('ZREM', KEYS[1], KEYS[at])
    end
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, 0, 'LIMIT', 0, NOTED)) do
    redis.call('ZADD', KEYS[1], math.max(clock, 1), key)
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '(0', clock - KEPT_MS, 'LIMIT', 0, NAMED)
