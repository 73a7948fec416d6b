# End the subscription of "alice".
gearman -h localhost -p 4730 -f unsubscribe_fanout '{"topic": "news", "client_id": "alice"}'
