-- What became of numbered requests; put in front of scripts that must not be carried out twice. An
-- asker numbers its requests from 1 on, and has a hash with a field for each of the last of them:
-- NUMBER % SLOTS -> "NUMBER RESULT". RESULT is "void" where the request was given up before it
-- came: should it come late, nothing is done. All askers are a sorted set: the key of each hash ->
-- the members' clock when it was first seen that nothing more had been asked, 0 where something has
-- been asked since.
--
-- A script recalls first, does its work and remembers, in one atomic step. As commands of their
-- own, a repetition that comes between the work and the remembering would do the work again.
--
-- Cost: a command to recall, two to remember, whatever was asked before. The slots bound the
-- memory; a request whose slot has a higher number is older than 1,024 others and counts as given
-- up.

local SLOTS = 1024

-- Numbers are passed to redis.call as text: it writes them with 17 digits, which takes longer.
local function slot_of(number)
    return string.format('%d', number % SLOTS)
end

-- Returns the result of a request, nil where it has not come yet.
local function recall(key, number)
    local kept = redis.call('HGET', key, slot_of(number))
    if not kept then
        return nil
    end
    local of, result = string.match(kept, '^(%d+) (.*)$')
    of = tonumber(of)
    if of > number then
        return 'void' -- far too late
    end
    return of == number and result or nil
end

local function remember(key, askers, number, result)
    redis.call('HSET', key, slot_of(number), string.format('%.0f ', number) .. result)
    redis.pcall('ZADD', askers, 0, key) -- where that is refused, the hash stays
end
