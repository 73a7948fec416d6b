-- Read the topics that follow a place in the order of a counter (sums.lua): those with most first,
-- and those with as many in the order of their names.
--
-- The topic of the place may have another count by now, or be gone. So its place among those with as
-- many is searched for by its name, where the order does not tell it.
--
-- Atomic, because ranks change with every count that changes: between the search and the reading the
-- place would be another one, and topics be left out that have not changed.
--
-- KEYS: 1 the counter
-- ARGV: 1 the count, 2 the topic of the place  3 how many at most
-- Returns topics and their scores, minus their counts, in turn.
-- Cost: about twenty commands, and the topics: the caller asks for 1,000 at most.

local score, topic = -tonumber(ARGV[1]), ARGV[2]
local text = string.format('%.0f', score)
local low
local found = redis.call('ZSCORE', KEYS[1], topic)
if found and tonumber(found) == score then
    low = redis.call('ZRANK', KEYS[1], topic) + 1
else
    low = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. text)
    local high = low + redis.call('ZCOUNT', KEYS[1], text, text)
    while low < high do
        local middle = math.floor((low + high) / 2)
        if redis.call('ZRANGE', KEYS[1], middle, middle)[1] > topic then
            high = middle
        else
            low = middle + 1
        end
    end
end
return redis.call('ZRANGE', KEYS[1], low, low + ARGV[3] - 1, 'WITHSCORES')
