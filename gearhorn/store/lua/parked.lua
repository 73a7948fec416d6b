-- How parked messages are kept; put in front of the scripts that set them aside or forget them.
-- One hash has those that are parked and those that were put back, SEQUENCE -> the message; its field
-- "bytes" is their size together.

local function resize(messages, by)
    if redis.call('HINCRBY', messages, 'bytes', by) == 0 then
        redis.call('HDEL', messages, 'bytes')
    end
end

local function keep_parked(messages, sequence, body)
    local former = redis.call('HSTRLEN', messages, sequence)
    redis.call('HSET', messages, sequence, body)
    resize(messages, #body - former)
end

local function forget_parked(messages, sequence)
    local size = redis.call('HSTRLEN', messages, sequence)
    if redis.call('HDEL', messages, sequence) == 1 then
        resize(messages, -size)
    end
end
