-- Remove a member, unless its record has changed, and with it the marks of its drains: nobody goes on
-- with them.
-- KEYS: 1 the members  2 the marks: queue -> "MEMBER REQUEST"
-- ARGV: 1 the member  2 the record that it must still have, or '' for any
-- Returns 1 if this call removed it.

local record = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] ~= '' and record ~= ARGV[2] then
    return 0
end
local marks = redis.call('HGETALL', KEYS[2])
for at = 1, #marks, 2 do
    if string.match(marks[at + 1], '^%S*') == ARGV[1] then
        redis.call('HDEL', KEYS[2], marks[at])
    end
end
return redis.call('HDEL', KEYS[1], ARGV[1])
