-- Take lanes of one topic that no living member holds, or that this member holds already. Each gets
-- a new TERM, under which its new owner writes from now on.
--
-- A lane's record is "OWNER TERM POSITION". OWNER is a member; "-" where the lane was released; "?"
-- where it was released while a receiver might have a job of a former owner; "pull" where nothing
-- is delivered. TERMs are counted over all topics, so that none comes again where a subscription is
-- ended and made anew. They are no lower than the store's time in microseconds, which no count
-- outruns, so that they rise even where the store lost its data. All lanes of one call get the same
-- TERM: it only has to be higher than any that the lane had.
--
-- Atomic, because between the check that the former owner is no member and the write of the new
-- record, another member could take the lane, or the owner could join again: two members would
-- deliver the same messages, each under a TERM that the store takes.
--
-- KEYS: 1 the lanes  2 the members  3 the last TERM given  4 the log
-- ARGV: 1 the member that takes them; one without a lease takes none  2… client_ids
-- Returns for each client false where there is no such lane, {0} where another member holds it (or
-- nothing is delivered), else {TERM, position, the former owner, the log's epoch}.
-- Cost: for each lane at most three commands on a hash; the caller names 500 at most.

local given = nil -- one for all lanes of this call
local function term_now()
    if not given then
        local last = tonumber(redis.call('GET', KEYS[3]) or 0)
        local time = redis.call('TIME')
        given = math.max(last + 1, 1000000 * time[1] + time[2])
        redis.call('SET', KEYS[3], string.format('%.0f', given))
    end
    return given
end

local reply = {}
local epoch = redis.call('HGET', KEYS[4], 'epoch') or ''
local is_member = redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1
for at = 2, #ARGV do
    local record = redis.call('HGET', KEYS[1], ARGV[at])
    local taken = false
    if record then
        local owner, term, position = string.match(record, '^(%S+) (%d+) (%d+)$')
        local is_free = owner == '-' or owner == ARGV[1]
            or (owner ~= 'pull' and redis.call('HEXISTS', KEYS[2], owner) == 0)
        if is_free and is_member then
            term = term_now()
            redis.call('HSET', KEYS[1], ARGV[at], string.format('%s %.0f %s', ARGV[1], term, position))
            taken = {term, tonumber(position), owner, epoch}
        else
            taken = {0}
        end
    end
    reply[at - 1] = taken
end
return reply
