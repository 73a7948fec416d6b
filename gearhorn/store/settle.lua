-- Move the positions of lanes of one topic, for the member that holds them.
-- KEYS: 1 the lanes  2 the log
-- ARGV: 1 the member  2 who holds them from now on: the member, "-" or "?"  3… for each lane its client_id, its
--       TERM, its position, and the epoch of the message there ('' where it has not moved)
-- Returns the client_ids of lanes that this member does not hold under that TERM, or whose position
-- the log knows nothing of: the store lost it.

local place = redis.call('HMGET', KEYS[2], 'epoch', 'base', 'last')
local epoch, base, last = place[1], tonumber(place[2] or 0), tonumber(place[3] or -1)
local clients, changed, fenced = {}, {}, {}
for at = 3, #ARGV, 4 do
    clients[#clients + 1] = ARGV[at]
end
local records = redis.call('HMGET', KEYS[1], unpack(clients))
for n, client in ipairs(clients) do
    local at = 4 * n - 1
    local position, under = tonumber(ARGV[at + 2]), ARGV[at + 3]
    local record = records[n]
    local mine = ARGV[1] .. ' ' .. ARGV[at + 1] .. ' '
    if record and string.sub(record, 1, #mine) == mine and position <= last
        and (under == '' or position < base or under == epoch) then
        changed[#changed + 1] = client
        changed[#changed + 1] = ARGV[2] .. ' ' .. ARGV[at + 1] .. ' ' .. ARGV[at + 2]
    else
        fenced[#fenced + 1] = client
    end
end
if #changed > 0 then
    redis.call('HSET', KEYS[1], unpack(changed))
end
return fenced
