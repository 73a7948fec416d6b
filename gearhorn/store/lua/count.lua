-- Add to the drop counters of pairs, once: a piece whose reply was lost is sent again as it was.
--
-- Atomic, because adding and remembering that it was added are one step: else a repetition would
-- count twice. And a pair that is unsubscribed between the check and the addition would leave a
-- counter behind, with which the next subscription of the pair would begin.
--
-- KEYS: 1 the requests of the member's process  2 all askers; then, for each topic, its clients and
--       their drops
-- ARGV: 1 the number of this request; then, for each topic, how many pairs, and for each pair its
--       client_id and what to add
-- Returns 1, or 0 where the piece was counted before. A pair that is not subscribed any more is not
-- counted; a key that holds something else costs its own topic only.
-- Cost: two commands for each pair; the caller names 1,000 at most, which is 2 ms of the store.

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
