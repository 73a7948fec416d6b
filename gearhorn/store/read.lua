-- Read a part of a log.
-- KEYS: 1 its messages   ARGV: 1 the first sequence  2 how many at most  3 bytes of payloads at most
-- Returns {1 where the log ends there or 0, then {sequence, header, info, payload} for each entry},
-- at least one entry where there is one.

local reply, size = {0}, 0
local from, most, bound = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
while #reply <= most do
    local entry = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
    if not entry then
        reply[1] = 1
        break
    end
    local sequence = tonumber(string.match(entry[1], '^%d+'))
    local fields = entry[2]
    size = size + #fields[6]
    if size > bound and #reply > 1 then
        break
    end
    reply[#reply + 1] = {sequence, fields[2], fields[4], fields[6]}
    from = sequence + 1
end
return reply
