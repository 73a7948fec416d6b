-- Take lanes of one topic that nobody holds, or that this member holds already: a new TERM.
-- KEYS: 1 the lanes  2 the members  3 the last TERM given   ARGV: 1 the member  2… client_ids
-- A lane's record is "OWNER TERM POSITION"; the owner is "-" where it was released, "?" where it was
-- while a receiver might have a job of a former owner, "pull" where nothing is delivered. TERMs are
-- counted over all topics, so that one never comes again, also where a subscription is made anew; and
-- are no lower than the store's time in microseconds, which no count outruns, so that they rise where
-- the store lost its data.
-- Returns for each client false where there is no such lane, {0} where another member holds it,
-- else {TERM, position, the former owner}.

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
            taken = {term, tonumber(position), owner}
        else
            taken = {0}
        end
    end
    reply[at - 1] = taken
end
return reply
