-- Read a part of a log, block by block.
--
-- A client that read entries by XRANGE would have to guess how many fit into a reply: a thousand
-- small ones are 1 MB, a thousand large ones 8 GB. The marks tell the size of a block before it is
-- read, so a large entry that does not fit is left alone.
--
-- Atomic, because pruning or a cap may forget a block between the reading of its mark and that of
-- its entries: the sizes would be those of other messages.
--
-- KEYS: 1 its messages  2 the marks of its blocks  3 the log
-- ARGV: 1 the first sequence  2 how many at most  3 bytes at most
-- Returns {1 where the log ends there or 0, then {sequence, header, info, payload} for each entry},
-- at least one entry where there is one.
-- Cost: up to four commands for each block of up to 64 entries, and the entries. The caller asks
-- for 1,000 at most, and for 8 MiB at most.

local reply, size = {0}, 0
local from, limit, bound = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local log = {messages = KEYS[1], marks = KEYS[2]}

-- Returns the next block as its last sequence ('+' is the log's) and, where they are known, its
-- bytes.
local function block_at(sequence)
    local found = redis.call('ZRANGEBYSCORE', log.marks, '(' .. sequence, '+inf', 'LIMIT', 0, 1)
    local behind = parse_mark(found[1])
    local mark = mark_of(log, sequence)
    local bytes = 0
    if mark and mark.sequence == sequence then
        local total = behind and behind.offset or tonumber(redis.call('HGET', KEYS[3], 'bytes') or 0)
        bytes = total - mark.offset
    end
    return behind and behind.sequence - 1 or '+', bytes
end

while #reply <= limit do -- the first element is no entry
    local last, bytes = block_at(from)
    if #reply > 1 and bytes > BLOCK_BYTES and size + bytes > bound then
        return reply -- one large entry that does not fit is not read
    end
    local wanted = limit + 1 - #reply
    local found = redis.call('XRANGE', log.messages, from, last, 'COUNT', wanted)
    for _, entry in ipairs(found) do
        local fields = entry[2]
        size = size + size_of(fields[4], fields[6])
        if size > bound and #reply > 1 then
            return reply
        end
        local sequence = tonumber(string.match(entry[1], '^%d+'))
        reply[#reply + 1] = {sequence, fields[2], fields[4], fields[6]}
    end
    if last == '+' then
        if #found < wanted then
            reply[1] = 1
        end
        return reply
    end
    from = last + 1
end
return reply
