-- Read a part of a topic's list: client_ids with their options, all of one moment.
--
-- Atomic, because a durable subscription that ends between the reading of the client_ids and that
-- of the options would be seen without any, as a direct one: its receivers would get a bare copy.
-- In the opposite order one that is made in between would.
--
-- KEYS: 1 the topic's client_ids  2 their options  3 the log
-- ARGV: 1 the lower bound in the order of client_ids  2 how many at most
-- Returns {client_ids, whether there is a log as 1 or 0, the options of each client_id, false where
-- it has none}; the options are empty where the topic has none at all.
-- Cost: four commands, about as many client_ids as were asked for: 2,000 at most, 1 to 2 ms.

-- a key may hold something else: then the store's own error is the reply
local clients = redis.pcall('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if clients.err then
    return clients
end
local count = redis.pcall('HLEN', KEYS[2])
if type(count) == 'table' then
    return count
end
local options = {}
if count > 0 and #clients > 0 then
    options = redis.call('HMGET', KEYS[2], unpack(clients))
end
return {clients, redis.call('EXISTS', KEYS[3]), options}
