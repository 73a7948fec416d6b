# Ask all hosts that subscribed to "news": a line of JSON for each one that answers within 5 seconds,
# as it answers, and at the end how many did.
gearman -h localhost -p 4730 -f fanout \
    '{"topic": "news", "payload": "who is there?", "stream": true, "timeout": 5}'
