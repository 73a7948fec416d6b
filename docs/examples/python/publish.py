"""Publish one message; print how many copies were queued."""

import json
import time

import gear

client = gear.Client()
client.addServer("localhost", 4730)
client.waitForServer(timeout=10)
message = {"topic": "news", "payload": "hello", "background": True}
job = gear.Job("fanout", json.dumps(message).encode())
client.submitJob(job)
while not job.complete:
    time.sleep(0.01)
text = b"".join(job.data).decode()
if job.failure:
    raise SystemExit(text)
print("copies:", text)
