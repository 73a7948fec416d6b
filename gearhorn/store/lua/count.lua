-- Add to the drop counters of pairs, once: a piece whose reply was lost is sent again as it was.
--
-- Atomic, because adding and remembering that it was added are one step: else a repetition would
-- count twice. And a pair that is unsubscribed between the check and the addition would leave a
-- counter behind, with which the next subscription of the pair would begin.
--
-- KEYS: 1 the requests of the member's process  2 all askers  3 pairs that have ended  4 the
--       drops of topics (sums.lua); then, for each topic, its clients and their drops
-- ARGV: 1 the number of this request; then, for each topic, its name and how many pairs, and for
--       each pair its client_id, what to add, and a version: what ended after it was another
--       subscription
-- Returns 1, or 0 where the piece was counted before. A pair that is not subscribed any more is not
-- counted, nor what a former subscription of it has lost; a key that holds something else costs its
-- own topic only.
-- Cost: three commands for each pair; the caller names 1,000 at most, which is 3 ms of the store.

local number = tonumber(ARGV[1])
if recall(KEYS[1], number) then
    return 0
end
remember(KEYS[1], KEYS[2], number, 'counted')
local at = 2
for n = 5, #KEYS, 2 do
    local topic, pairs_left = ARGV[at], tonumber(ARGV[at + 1])
    at = at + 2
    local added = 0
    for _ = 1, pairs_left do
        local client, count, version = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
        local score = redis.pcall('ZSCORE', KEYS[n], client)
        if type(score) == 'string' then
            local ended = redis.pcall('ZSCORE', KEYS[3], topic .. '\0' .. client)
            if type(ended) ~= 'string' or tonumber(ended) <= version then
                if type(redis.pcall('HINCRBY', KEYS[n + 1], client, count)) == 'number' then
                    added = added + tonumber(count)
                end
            end
        end
        at = at + 3
    end
    add_up(KEYS[4], topic, added)
end
return 1
