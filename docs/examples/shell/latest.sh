# Subscribe "alice" durably to the newest price of each currency, a header of the messages. While she
# is busy or away, prices that are out of date are passed by; `skipped` in the description counts them.
gearman -h localhost -p 4730 -f subscribe_fanout \
    '{"topic": "prices", "client_id": "alice", "durable": {"latest": "currency"}}'
