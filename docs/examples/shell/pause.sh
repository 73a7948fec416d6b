# Deliver nothing of "orders" to "alice" for ten minutes, or until `"paused": false` comes.
gearman -h localhost -p 4730 -f subscribe_fanout \
    '{"topic": "orders", "client_id": "alice", "durable": {"paused": 600}}'
