-- What became of a change is remembered under its request's id, so that a caller that has not heard
-- the reply can ask again without writing twice; put in front of the scripts that change something.
-- The answers are a hash, id -> reply; beside them stands when each was given, by the members'
-- clock.
--
-- Both functions run in the script that writes the change, and only there: a reply that was
-- remembered by a second command could be lost with the connection between the two, and the change
-- would be written again.
--
-- Cost: a command to recall, three to remember, and now and then the deletion of a hundred answers.
-- An answer is kept for two minutes: by then its caller has asked again or has been told
-- "unavailable". The number is bounded besides, since a clock that stands still ends no minute.

local KEPT, KEPT_MS, AT_ONCE = 10000, 120000, 100 -- answers kept, for how long, forgotten in one go
local OFTEN = 16 -- answers between two searches for old ones: each forgets more than came meanwhile

-- Returns what was replied to a request, false where it was withdrawn, or nil.
local function recall(answers, request)
    local found = request ~= '' and redis.call('HGET', answers, request)
    if found then
        return cmsgpack.unpack(found)
    end
    return nil
end

-- Returns the reply, which is remembered for the request from now on.
local function remember(answers, times, request, clock, reply)
    if request == '' then
        return reply
    end
    redis.call('HSET', answers, request, cmsgpack.pack(reply))
    redis.call('ZADD', times, clock, request)
    local count = redis.call('ZCARD', times)
    if count <= KEPT and count % OFTEN ~= 0 then
        return reply
    end
    local old = redis.call('ZRANGEBYSCORE', times, '-inf', clock - KEPT_MS, 'LIMIT', 0, AT_ONCE)
    if #old == 0 and count > KEPT then
        old = redis.call('ZRANGE', times, 0, AT_ONCE - 1)
    end
    if #old > 0 then
        redis.call('HDEL', answers, unpack(old))
        redis.call('ZREM', times, unpack(old))
    end
    return reply
end
