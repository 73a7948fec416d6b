-- Read all patterns, with the word that stands for them.
--
-- Atomic, because the word has to be that of the set: a member that took a set for that of a later
-- word would not read it again, and send no copies to a pattern that it does not know.
--
-- KEYS: 1 the patterns  2 the word
-- ARGV: 1 how many there may be
-- Returns {the word, or false where there are none, the names of the patterns' lists}.
-- Cost: one command that returns 10,000 names at most; a member asks after each change of the set.

return {redis.call('GET', KEYS[2]), redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)}
