-- What a fetch asks of a log besides messages: where it stands, to acknowledge, to purge.
-- Everything is checked before anything is done, so a refusal changes nothing.
--
-- Atomic, because what is purged depends on every lane's position: a durable subscription that is
-- made, or a position that is read, between the reading and the purge could be behind what goes.
-- Acknowledgements read and write one record: of two callers that acknowledge at once, the lower
-- position could win. What a subscription has missed is counted in the same step, once.
--
-- KEYS: 1 the log  2 its messages  3 the marks of its blocks  4 the lanes
--       5 the topic's drops  6 its subscriptions' options  7 and 8 where lanes stand beyond the edge
--       (standing.lua)  9 the lags and 10 the drops of topics (sums.lua)
-- ARGV: 1 client_id, or ''  2 the epoch the caller knows, or ''  3 the position to move to, or ''
--       4 up to where to purge, or ''
--       5 topic
--       6 the mark and 7 the position of a reading of many lanes (see slowest), or ''
-- Returns false where there is no log; else {what, epoch, first, last, position, messages that a
-- pull subscription has missed, 1 where there is more to purge, 2 where the lanes are to be read
-- first, the reading of the clock at which a pause of the subscription ends (see change.lua), 0 where
-- there is none}; what is 'ok', 'epoch' (another one: nothing is changed), 'client' (no durable
-- subscription), 'pull' (one that is delivered to), 'ack' or 'purge' (beyond the last). What a
-- subscription has missed is counted here, since no member delivers for it and would notice.
-- Cost: without a purge a handful of commands. A purge reads up to 2,000 positions and forgets up
-- to 100,000 entries or 32 MiB: a few milliseconds; the caller asks again while there is more.

local log = open_log(KEYS[1], KEYS[2], KEYS[3])
if not log then
    return false
end
local position, missed, paused = 0, 0, 0
local function answer(what, more)
    return {what, log.epoch, log.first, log.last, position, missed, more or 0, paused}
end
local record = ARGV[1] ~= '' and redis.call('HGET', KEYS[4], ARGV[1])
if ARGV[1] ~= '' then
    if not record then
        return answer('client')
    end
    position = position_of(record)
end
if ARGV[2] ~= '' and ARGV[2] ~= log.epoch then
    return answer('epoch')
end
local is_pull = record and string.sub(record, 1, 5) == 'pull '
local options = is_pull and redis.call('HGET', KEYS[6], ARGV[1])
if options and string.find(options, '"paused_ms"', 1, true) then
    paused = cjson.decode(options).durable.paused_ms or 0
end
local ack, purge = tonumber(ARGV[3]), tonumber(ARGV[4])
if ack then
    if not is_pull then
        return answer('pull')
    end
    if ack > log.last then
        return answer('ack')
    end
end
if purge and purge > log.last then
    return answer('purge')
end
local moved = position
if is_pull and position < log.first - 1 then
    missed = log.first - 1 - position
    moved = log.first - 1
    redis.call('HINCRBY', KEYS[5], ARGV[1], missed)
    add_up(KEYS[10], ARGV[5], missed)
end
moved = math.max(moved, ack or 0)
if moved > position then
    local at = standing_of(KEYS[1], KEYS[7], KEYS[8], KEYS[9], ARGV[5])
    local from, to = string.format('%.0f', position), string.format('%.0f', moved)
    move_lanes(at, {[from] = -1, [to] = 1})
    position = moved
    redis.call('HSET', KEYS[4], ARGV[1], 'pull 0 ' .. string.format('%.0f', position))
end
if not purge then
    return answer('ok')
end
local done = slowest(log, KEYS[4], ARGV[6], ARGV[7])
if not done then
    return answer('ok', 2)
end
return answer('ok', forget(log, math.min(purge, done) + 1) and 1 or 0)
