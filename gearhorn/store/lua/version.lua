-- What the scripts share that change what members have cached; put in front of each of them.
--
-- The change, the new version and the note are one step: a member that renews its lease between two
-- of them would take the version as known and not be told of the topic, and keep its old list.
--
-- Cost: three commands; now and then the oldest 1,000 notes go.

-- Raise the version and note that the topic changed; returns the new version. A topic has one note,
-- of its last change. What the notes have forgotten is known by the floor: a member that knows less
-- drops every list.
local function change(topic, version_key, log_key, floor_key)
    local KEPT, EXTRA = 10000, 1000 -- topics in the change log, and more until the oldest go
    local version = redis.call('INCR', version_key)
    redis.call('ZADD', log_key, version, topic)
    if redis.call('ZCARD', log_key) > KEPT + EXTRA then
        local gone = redis.call('ZRANGE', log_key, 0, EXTRA - 1, 'WITHSCORES')
        redis.call('SET', floor_key, gone[#gone])
        redis.call('ZREMRANGEBYRANK', log_key, 0, EXTRA - 1)
    end
    return version
end
