-- Join or renew a lease, and learn what has changed.
--
-- A renewal writes up to which version the member knows every change, and returns what came after.
-- So the next renewal, which says that these are known, is what other members rely on.
--
-- Atomic, because the version, the topics that changed up to it and the members are of one moment:
-- a change between two of them would be counted as known and not be among the topics, and the
-- member would use an old list under a good lease. A joining member takes the version as known that
-- its record has; a change in between would be told to a list of members without it. And a record
-- that was removed between the check and the write would come back to life.
--
-- The clock that is stored is as old as the last renewal of any member. A member that took it as it
-- is would be behind the others from then on, and a message that it says to expire in a second would
-- have expired for them. So what has passed on the server's own time is added, a third of a lease at
-- most, which is as long as it may be while a member lives: should that time be set, the members'
-- clock is wrong by no more, and never goes back.
--
-- KEYS: 1 the members  2 the version  3 the change log  4 its floor  5 the clock  6 what expires
--       7 the run id that the data was last served under  8 the layout  9 a word for the data
--       10 the server's time when the clock was stored
-- ARGV: 1 "join" or "renew"  2 the member  3 the version up to which it knows every change, or -1
--       4 its lease, ms, and what its release knows (see keys.py)  5 its reading of the clock, ms  6 the server's run id
--       7 "settled" where every lease under the former run has lapsed  8 the layout's number
--       9 how many expired pairs are handed out at once  10 a fresh word for data that has none
-- Returns {0} where the store does not know the member; else {1, version, the topics that changed
-- since or false for everything, the members as a flat list, the clock, pairs that expired, whether
-- the data was last served under this run, the word that stands for the data}.
-- Cost: a dozen commands, the members, up to 100 expired pairs, and the topics that changed since:
-- all that are kept, 11,000 at most, beyond which it is "everything". A member renews every third
-- of its lease.

redis.call('SET', KEYS[8], ARGV[8], 'NX') -- an emptied store is ours again
local former = redis.call('HGET', KEYS[1], ARGV[2])
if ARGV[1] == 'renew' and not former then
    return {0}
end
local version = tonumber(redis.call('GET', KEYS[2]) or 0)
local known = tonumber(ARGV[3])
if ARGV[1] == 'join' then
    known = version
end
local floor = tonumber(redis.call('GET', KEYS[4]) or 0)
local topics = false
if known >= floor and known <= version then
    topics = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. known, '+inf')
end
local is_first = redis.call('HLEN', KEYS[1]) == 0 -- then time has stood still
local count = former and tonumber(string.match(former, '^%d+')) + 1 or 1
redis.call('HSET', KEYS[1], ARGV[2], count .. ' ' .. known .. ' ' .. ARGV[4])

local time = redis.call('TIME')
local at = 1000 * time[1] + math.floor(time[2] / 1000)
local since = at - tonumber(redis.call('GET', KEYS[10]) or at)
since = math.max(0, math.min(since, tonumber(string.match(ARGV[4], '^%d+')) / 3))
if is_first then
    since = 0
end
local clock = math.max(tonumber(redis.call('GET', KEYS[5]) or 0) + since, tonumber(ARGV[5]))
redis.call('SET', KEYS[5], string.format('%.0f', clock))
redis.call('SET', KEYS[10], string.format('%.0f', at))
local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', clock, 'LIMIT', 0, ARGV[9])

if ARGV[7] == 'settled' or not redis.call('GET', KEYS[7]) then
    redis.call('SET', KEYS[7], ARGV[6])
end
local same = redis.call('GET', KEYS[7]) == ARGV[6] and 1 or 0
redis.call('SET', KEYS[9], ARGV[10], 'NX')
local data = redis.call('GET', KEYS[9])
return {1, version, topics, redis.call('HGETALL', KEYS[1]), clock, due, same, data}
