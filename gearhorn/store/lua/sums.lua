-- The counters of topics, kept as things change; put in front of the scripts that change them. Each
-- is a sorted set, topic -> minus the count: so the topics with most come first, and those with as
-- many in the order of their names. A topic that has none is not there.
--
-- The count and what is counted change in one script, so neither a lost reply nor a member's death
-- parts the two. Counters inform, and decide nothing: one that cannot be written stops no script.
--
-- Cost: a command for each count that changes, one more where it becomes 0.

-- Add to a topic's counter. Lists of patterns have none.
local function add_up(counter, topic, by)
    if by == 0 or string.sub(topic, 1, 1) == ' ' then
        return
    end
    local score = redis.pcall('ZINCRBY', counter, -by, topic)
    if type(score) == 'string' and tonumber(score) >= 0 then
        redis.pcall('ZREM', counter, topic)
    end
end

-- Keep how far a topic's slowest lane is behind its log.
local function keep_lag(counter, topic, lag)
    if lag > 0 then
        redis.pcall('ZADD', counter, string.format('%.0f', -lag), topic)
    else
        redis.pcall('ZREM', counter, topic)
    end
end
