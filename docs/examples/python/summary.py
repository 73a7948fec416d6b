"""Print what waits for each topic and where no receiver is there for it, page by page."""

import json
import time

import gear

client = gear.Client()
client.addServer("localhost", 4730)
client.waitForServer(timeout=10)
request = {"summary": True, "sort": "backlog"}
while True:
    job = gear.Job("describe_fanout", json.dumps(request).encode())
    client.submitJob(job)
    while not job.complete:
        time.sleep(0.01)
    text = b"".join(job.data).decode()
    if job.failure:
        raise SystemExit(text)
    page = json.loads(text)
    for topic, counts in page["topics"].items():
        waiting, missing = counts["backlog"], counts["receivers_missing"]
        print(f"{topic}: {waiting} waiting, {missing} without a receiver")
    if page["cursor"] is None:
        break
    request["cursor"] = page["cursor"]
