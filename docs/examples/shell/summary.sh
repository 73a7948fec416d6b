# The ten topics whose slowest durable subscription is furthest behind, with their counts.
gearman -h localhost -p 4730 -f describe_fanout '{"summary": true, "sort": "lag", "limit": 10}'
