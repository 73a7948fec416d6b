# Subscribe "alice" durably to the topic "orders".
gearman -h localhost -p 4730 -f subscribe_fanout \
    '{"topic": "orders", "client_id": "alice", "durable": {"timeout": 10, "max_attempts": 5}}'
# Run a command for each order, with the order as its input. A command that fails (here: as long
# as there is no directory "inbox") is given the order again, after 2 seconds, then 3, 5, 9 ...
gearman -h localhost -p 4730 -w -f orders_alice -- sh -c 'cat >> inbox/orders'
