-- Move the positions of lanes of one topic, for the member that holds them; also give lanes up.
--
-- A position is written only where the lane's record has the member and the TERM (a *fence*), and
-- only as far as the log goes: the log has that sequence, and had it under the same epoch. A store
-- that was restarted may have lost the end of its log, and gives the numbers again; a position of
-- before would pass over messages that were never delivered.
--
-- Atomic, because another member could take the lane between the check of its record and the write:
-- the former owner would set the position, and the owner, back to its own. And the position moves
-- together with what is done beyond it: a new owner that found one without the other would deliver
-- again what was done.
--
-- So does what lanes have counted, in hashes of client_id -> "TOTAL TERM COUNT": a new owner goes on
-- behind what was counted, and the count of a TERM is added once, however often it is told. And
-- where the lanes of the topic stand is counted (standing.lua).
--
-- KEYS: 1 the lanes  2 the log  3 and 4 where lanes stand beyond the edge (spread, crowd)  5 the lags
--       of topics  6… what lanes have done beyond their positions, and their counters
-- ARGV: 1 the member  2 the owner from now on: the member, "-" or "?" (see acquire.lua)  3 the topic
--       4 what lanes have counted under their TERMs: '' where nothing, else "K N COUNT K N COUNT …",
--       K being the number of the counter's key and N that of the lane here  5… for each lane its
--       client_id, its TERM, its position, the epoch of the message there ('' where it has not
--       moved), and what is done beyond it: '' where nothing is and was, else "K FIRST LAST EPOCH
--       FIRST LAST EPOCH …"
-- A position never goes back: one whose answer was late may come after the next was written.
-- Returns the client_ids of lanes that this member does not hold under that TERM, or whose position
-- or messages the log knows nothing of: the store lost them.
-- Cost: four commands for all lanes together, and for each range beyond one more. The caller names
-- 500 lanes and 2,000 ranges at most. This runs once or twice for every acknowledged message of a
-- quiet system, so records are compared as text, and read and written together.

local place = redis.call('HMGET', KEYS[2], 'epoch', 'base', 'last', 'near')
local epoch, base, last = place[1], tonumber(place[2] or 0), tonumber(place[3] or -1)

-- Whether the log has a sequence, under this epoch ('' is any). Under which epochs messages before
-- the present one were logged is not kept: those are taken as they are.
local function knows(position, under)
    return position <= last and (under == '' or position < base or under == epoch)
end

-- Returns the key of what is done beyond a position and what is new there; nil where the log does
-- not know it.
local function beyond_of(text)
    local key, from = string.match(text, '^(%d+)()')
    local new = {}
    for first, upto, under in string.gmatch(string.sub(text, from), ' (%d+) (%d+) (%S+)') do
        if not knows(tonumber(upto), under) then
            return nil
        end
        new[#new + 1] = {upto, first .. '-' .. upto}
    end
    return KEYS[tonumber(key)], new
end

local function count_up(key, client, term, count)
    local kept = redis.call('HGET', key, client) or '0 0 0'
    local total, last, former = string.match(kept, '^(%d+) (%d+) (%d+)$')
    local new = tonumber(count) - (last == term and tonumber(former) or 0)
    if new > 0 then
        local text = string.format('%.0f', tonumber(total) + new)
        redis.call('HSET', key, client, text .. ' ' .. term .. ' ' .. count)
    end
end

local clients, changed, fenced, lost = {}, {}, {}, {}
-- Lanes nearly always move together: from one position to another. Any others are in ``moves``,
-- position -> lanes that it gains.
local from, to, together, moves = nil, nil, 0, nil
for at = 5, #ARGV, 5 do
    clients[#clients + 1] = ARGV[at]
end
local records = redis.call('HMGET', KEYS[1], unpack(clients))
for n, client in ipairs(clients) do
    local at = 5 * n
    local position, more = tonumber(ARGV[at + 2]), ARGV[at + 4]
    local record = records[n]
    local mine = ARGV[1] .. ' ' .. ARGV[at + 1] .. ' ' -- what the record begins with
    local key, new
    local is_known = record and string.sub(record, 1, #mine) == mine
        and knows(position, ARGV[at + 3])
    if is_known and more ~= '' then
        key, new = beyond_of(more)
        is_known = key
    end
    if is_known then
        local upto = ARGV[at + 2]
        local stored = string.sub(record, #mine + 1)
        if tonumber(stored) > position then
            upto = stored
        elseif upto ~= stored then
            if not from then
                from, to = stored, upto
            end
            if stored == from and upto == to then
                together = together + 1
            else
                moves = moves or {}
                moves[stored] = (moves[stored] or 0) - 1
                moves[upto] = (moves[upto] or 0) + 1
            end
        end
        changed[#changed + 1] = client
        changed[#changed + 1] = ARGV[2] .. ' ' .. ARGV[at + 1] .. ' ' .. upto
        if key then
            for _, range in ipairs(new) do
                redis.call('ZADD', key, range[1], range[2])
            end
            redis.call('ZREMRANGEBYSCORE', key, '-inf', upto) -- the position covers them
        end
    else
        fenced[#fenced + 1] = client
        lost[n] = true
    end
end
for key, n, count in string.gmatch(ARGV[4], '(%d+) (%d+) (%d+)') do
    n = tonumber(n)
    if not lost[n] then
        count_up(KEYS[tonumber(key)], clients[n], ARGV[5 * n + 1], count)
    end
end
if #changed > 0 then
    redis.call('HSET', KEYS[1], unpack(changed))
end
if from and not moves and place[4] == '- ' .. from .. ' ' .. together then -- all that there are
    redis.call('HSET', KEYS[2], 'near', '- ' .. to .. ' ' .. together)
    keep_lag(KEYS[5], ARGV[3], last - tonumber(to))
elseif from then
    moves = moves or {}
    moves[from] = (moves[from] or 0) - together
    moves[to] = (moves[to] or 0) + together
    move_lanes({
        log = KEYS[2], spread = KEYS[3], crowd = KEYS[4], lags = KEYS[5], topic = ARGV[3],
        last = place[3], near = place[4],
    }, moves)
end
return fenced
