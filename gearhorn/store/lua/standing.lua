-- Where the lanes of a topic stand: how many at which position. The lowest is the slowest lane's,
-- from which the topic's lag is counted; put in front of the scripts that move positions.
--
-- Reading all positions to find the lowest would take 30 ms for 100,000 lanes, and remembering the
-- lowest alone does not tell the next one when its lane has moved on. So positions are counted. Lanes
-- are nearly always close together: a thousand that keep up stand at one or two positions, so a
-- thousand moves are two. These are a text in the log's field "near": "EDGE POSITION LANES POSITION
-- LANES …", of which the first position is the lowest. EDGE is "-", or a position from which on they
-- are kept apart: in a sorted set of positions ("spread") and a hash, position -> lanes ("crowd").
--
-- Cost: two commands for all moves of a topic together. Where lanes stand at more than NEAR
-- positions, two or three more for each position that gains or loses lanes beyond the edge.

local NEAR = 32 -- positions in the text

-- Add lanes to a position beyond the edge, or take them away.
local function move_far(at, position, by)
    local lanes = redis.call('HINCRBY', at.crowd, position, by)
    if lanes <= 0 then
        redis.call('HDEL', at.crowd, position)
        redis.call('ZREM', at.spread, position)
    elseif lanes == by then
        redis.call('ZADD', at.spread, position, position)
    end
end

-- Returns the positions of the text, in order.
local function in_order(near)
    local order = {}
    for position in pairs(near) do
        order[#order + 1] = position
    end
    table.sort(order, function(one, other) return tonumber(one) < tonumber(other) end)
    return order
end

-- Put the higher half of the positions beyond a new edge, which is returned.
local function move_out(at, near)
    local order = in_order(near)
    for n = NEAR / 2 + 1, #order do
        move_far(at, order[n], near[order[n]])
        near[order[n]] = nil
    end
    return order[NEAR / 2 + 1]
end

-- Take the lowest positions from beyond the edge; returns the new edge, or nil.
local function move_in(at, near)
    local order = redis.call('ZRANGE', at.spread, 0, NEAR / 2)
    local edge = nil
    for n, position in ipairs(order) do
        if n > NEAR / 2 then
            edge = position
        else
            near[position] = tonumber(redis.call('HGET', at.crowd, position))
            redis.call('HDEL', at.crowd, position)
            redis.call('ZREM', at.spread, position)
        end
    end
    return edge
end

-- Move lanes. ``at`` has the keys log, spread, crowd and lags, the topic, and the fields last and
-- near of the log, as text or false; ``moves`` is position, as text -> lanes that it gains.
local function move_lanes(at, moves)
    local near, count = {}, 0
    local text = at.near or '-'
    local edge = string.match(text, '^%d+')
    for position, lanes in string.gmatch(text, ' (%d+) (%d+)') do
        near[position] = tonumber(lanes)
        count = count + 1
    end
    for position, by in pairs(moves) do
        if edge and tonumber(position) >= tonumber(edge) then
            if by ~= 0 then
                move_far(at, position, by)
            end
        else
            local former = near[position]
            local lanes = (former or 0) + by
            near[position] = lanes > 0 and lanes or nil
            count = count + (near[position] and 1 or 0) - (former and 1 or 0)
        end
    end
    if count > NEAR then
        edge = move_out(at, near)
    elseif count == 0 and edge then
        edge = move_in(at, near)
    end
    local former, slow = string.match(text, '^%S+ (%d+)'), nil
    for position in pairs(near) do
        if not slow or tonumber(position) < tonumber(slow) then
            slow = position
        end
    end
    if slow then
        local parts = {edge or '-', slow .. ' ' .. near[slow]}
        for position, lanes in pairs(near) do
            if position ~= slow then
                parts[#parts + 1] = position .. ' ' .. lanes
            end
        end
        redis.call('HSET', at.log, 'near', table.concat(parts, ' '))
    else
        redis.call('HDEL', at.log, 'near')
    end
    if slow ~= former then
        keep_lag(at.lags, at.topic, slow and tonumber(at.last or 0) - tonumber(slow) or 0)
    end
end

-- Returns ``at`` for move_lanes, as the log has it.
local function standing_of(log, spread, crowd, lags, topic)
    local found = redis.call('HMGET', log, 'last', 'near')
    return {
        log = log, spread = spread, crowd = crowd, lags = lags, topic = topic,
        last = found[1], near = found[2],
    }
end
