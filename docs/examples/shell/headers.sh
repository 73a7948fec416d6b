# Publish a price that is good for 30 seconds, and say beside it what it is.
gearman -h localhost -p 4730 -f fanout '{"topic": "prices", "payload": "1.0843", "expires": 30,
    "headers": {"content-type": "text/plain", "currency": "USD"}, "background": true}'
