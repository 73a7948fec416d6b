"""Subscribe as "bob" with envelopes: read what stands beside the payload, and drop what is late."""

import json
import socket
import time

import gear


class Connection(gear.Connection):
    def connect(self):
        super().connect()
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


gear.Connection = Connection  # before the first addServer

subscription = {"topic": "prices", "client_id": "bob", "envelope": True}
client = gear.Client()
client.addServer("localhost", 4730)
client.waitForServer(timeout=10)
job = gear.Job("subscribe_fanout", json.dumps(subscription).encode())
client.submitJob(job)
while not job.complete:
    time.sleep(0.01)
if job.failure:
    raise SystemExit(b"".join(job.data).decode())

worker = gear.Worker("bob")
worker.addServer("localhost", 4730)
worker.registerFunction("prices_bob")
while True:
    job = worker.getJob()
    message = json.loads(job.arguments)
    if time.time() < message.get("expires_at", float("inf")):  # it may have waited on the queue
        headers = message.get("headers", {})  # names are in lower case
        print("bob received", message["payload"], headers.get("currency", ""), flush=True)
    job.sendWorkComplete()
