-- Add to the drop counters of pairs, once: a piece whose reply was lost is sent again as it was.
-- KEYS: 1 the number of the last piece that this process counted; then, for each topic, 2n its
--       clients  2n+1 their drops
-- ARGV: 1 the piece's number, from 1 on  2 seconds until the number is forgotten; then, for each
--       topic, how many pairs, and for each pair its client_id and what to add
-- Returns 1, or 0 where the piece was counted before. Who is not subscribed any more is not counted.

if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
local at = 3
for n = 2, #KEYS, 2 do
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
