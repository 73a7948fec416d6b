# Subscribe host "alice" to the topic "news"; the reply names its queue.
gearman -h localhost -p 4730 -f subscribe_fanout '{"topic": "news", "client_id": "alice"}'
