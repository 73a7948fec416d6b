-- Read a part of a log.
-- KEYS: 1 its messages   ARGV: 1 the first sequence  2 how many at most  3 bytes after which to stop
-- Returns {sequence, header, info, payload} for each entry, at least one where there is one.

local entries, size = {}, 0
local from = tonumber(ARGV[1])
while #entries < tonumber(ARGV[2]) and size < tonumber(ARGV[3]) do
    local entry = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
    if not entry then
        break
    end
    local sequence = tonumber(string.match(entry[1], '^%d+'))
    local fields = entry[2]
    entries[#entries + 1] = {sequence, fields[2], fields[4], fields[6]}
    size = size + #fields[6]
    from = sequence + 1
end
return entries
