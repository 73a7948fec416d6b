# Subscribe host "alice" to the orders of every shop: "*" is one segment, ">" at the end any number.
gearman -h localhost -p 4730 -f subscribe_fanout '{"topic": "orders.*.paid", "client_id": "alice",
    "pattern": true}'
