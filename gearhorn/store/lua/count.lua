-- Add to the drop counters of pairs, once: a piece whose reply was lost is sent again as it was.
-- KEYS: 1 the requests of the member's process  2 all who ask; then, for each topic, its clients and
--       their drops
-- ARGV: 1 the number of this request; then, for each topic, how many pairs, and for each pair its
--       client_id and what to add
-- Returns 1, or 0 where the piece was counted before. Who is not subscribed any more is not counted.

local number = tonumber(ARGV[1])
if recall(KEYS[1], number) then
    return 0
end
remember(KEYS[1], KEYS[2], number, 'counted')
local at = 2
for n = 3, #KEYS, 2 do
    local pairs_left = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, pairs_left do
        local score = redis.pcall('ZSCORE', KEYS[n], ARGV[at])
        if type(score) == 'string' then
            redis.pcall('HINCRBY', KEYS[n + 1], ARGV[at], ARGV[at + 1])
        end
        at = at + 2
    end
end
return 1
