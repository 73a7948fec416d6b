-- Forget what became of the requests of those who have asked nothing for long.
-- KEYS: 1 the askers  2 the clock  3… what became of the requests of those that a former call named
-- ARGV: 1 the caller's reading of the clock, ms; its own may have stood still for long
-- Returns the keys of askers to be forgotten in the next call, unless they ask meanwhile.

local KEPT_MS = 86400000 -- whoever asks may be frozen, or cut off, and ask again
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
