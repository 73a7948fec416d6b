# Ask all hosts that subscribed to "news"; the reply says within 5 seconds what each answered.
gearman -h localhost -p 4730 -f fanout \
    '{"topic": "news", "payload": "who is there?", "receipt": true, "timeout": 5}'
