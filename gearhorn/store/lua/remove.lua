-- Remove a member, unless its record has changed, and with it the marks of its drains: no other
-- member goes on with them.
--
-- Atomic, because a member that was taken for dead may renew its lease between the comparison of
-- its record and the removal; it would go on serving, though no change is told to it any more. With
-- the comparison in the store, one of several members that find it dead removes it, and the others
-- are told that they did not.
--
-- KEYS: 1 the members  2 the marks: queue -> "MEMBER REQUEST"
-- ARGV: 1 the member  2 the record that it must still have, or '' for any
-- Returns 1 if this call removed it.
-- Cost: a command for each mark there is: as many drains as are under way in the namespace.

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
