# Publish one message; the reply is the number of copies.
gearman -h localhost -p 4730 -f fanout '{"topic": "news", "payload": "hello", "background": true}'
