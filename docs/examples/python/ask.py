"""Ask all hosts that subscribed to "news", and print what each answered within 5 seconds."""

import json
import time

import gear

client = gear.Client()
client.addServer("localhost", 4730)
client.waitForServer(timeout=10)
question = {"topic": "news", "payload": "who is there?", "receipt": True, "timeout": 5}
job = gear.Job("fanout", json.dumps(question).encode())
client.submitJob(job)
while not job.complete:
    time.sleep(0.01)
text = b"".join(job.data).decode()
if job.failure:
    raise SystemExit(text)
receipt = json.loads(text)
for host, answer in receipt["results"].items():
    print(f"{host}: {answer}")
for host, reason in receipt["failed"].items():
    print(f"{host} failed: {reason}")
for host in receipt["pending"]:
    print(f"{host} did not answer")
