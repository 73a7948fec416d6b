-- How parked messages are kept; put in front of the scripts that set them aside or forget them. One
-- hash has those that are parked and those that were put back, SEQUENCE -> the message; its field
-- "bytes" is their size together. It has to be exact, since the cap on bytes is held by it: so the
-- message and the sum change in one script, and by what the hash really had. The field goes with
-- the last message, so that the key does, too.
--
-- Cost: three commands for each message.

local function resize(messages, by)
    if redis.call('HINCRBY', messages, 'bytes', by) == 0 then
        redis.call('HDEL', messages, 'bytes')
    end
end

-- Keep a message, in the place of a former one where it is kept already.
local function keep_parked(messages, sequence, body)
    local former = redis.call('HSTRLEN', messages, sequence)
    redis.call('HSET', messages, sequence, body)
    resize(messages, #body - former)
end

-- Forget a message; nothing happens where it is not kept.
local function forget_parked(messages, sequence)
    local size = redis.call('HSTRLEN', messages, sequence)
    if redis.call('HDEL', messages, sequence) == 1 then
        resize(messages, -size)
    end
end
