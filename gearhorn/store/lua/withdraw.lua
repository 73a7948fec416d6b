-- Tell what became of changes whose replies are not known; those that were not written by now never
-- will be, though they may still be on their way.
--
-- Atomic, because a change that arrives between the question and the note that it came to nothing
-- would be written, and its caller told that it was not.
--
-- KEYS: 1 the answers  2 when each was given
-- ARGV: 1 the caller's reading of the clock, ms  2… the requests' ids
-- Returns the reply of each, or false where it was not written.
-- Cost: up to four commands for each request; a round has 500 at most.

local replies = {}
for at = 2, #ARGV do
    local found = recall(KEYS[1], ARGV[at])
    if not found then
        -- where nothing can be remembered, a change that comes late is not written either
        pcall(remember, KEYS[1], KEYS[2], ARGV[at], tonumber(ARGV[1]), false)
    end
    replies[at - 1] = found or false
end
return replies
