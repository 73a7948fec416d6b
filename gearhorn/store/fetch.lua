-- What a fetch asks of a log besides messages: where it stands, to acknowledge, to purge.
-- KEYS: 1 the log  2 its messages  3 the lanes
-- ARGV: 1 client_id, or ''  2 the epoch the caller knows, or ''  3 the position to move to, or ''
--       4 up to where to purge, or ''
-- Returns false where there is no log; else {what, epoch, first, last, position}; what is 'ok',
-- 'epoch' (another one: nothing is changed), 'client' (no durable subscription), 'pull' (one that
-- is delivered to), 'ack' or 'purge' (beyond the last).

local log = open_log(KEYS[1])
if not log then
    return false
end
local position = 0
local function answer(what)
    return {what, log.epoch, log.first, log.last, position}
end
local record = ARGV[1] ~= '' and redis.call('HGET', KEYS[3], ARGV[1])
if ARGV[1] ~= '' then
    if not record then
        return answer('client')
    end
    position = position_of(record)
end
if ARGV[2] ~= '' and ARGV[2] ~= log.epoch then
    return answer('epoch')
end
local ack, purge = tonumber(ARGV[3]), tonumber(ARGV[4])
if ack then
    if string.sub(record, 1, 5) ~= 'pull ' then
        return answer('pull')
    end
    if ack > log.last then
        return answer('ack')
    end
end
if purge and purge > log.last then
    return answer('purge')
end
if ack and ack > position then
    position = ack
    redis.call('HSET', KEYS[3], ARGV[1], 'pull 0 ' .. string.format('%.0f', ack))
end
if purge then
    forget(log, KEYS[2], math.min(purge, slowest(log, KEYS[3])) + 1)
end
return answer('ok')
