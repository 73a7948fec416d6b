"""Subscribe as "bob" by a pattern: one queue for the orders of every shop, with their topics."""

import json
import socket
import time

import gear


class Connection(gear.Connection):
    def connect(self):
        super().connect()
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


gear.Connection = Connection  # before the first addServer

subscription = {"topic": "orders.*.paid", "client_id": "bob", "pattern": True}
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
worker.registerFunction("orders.*.paid_bob")  # the pattern, an underscore and the client_id
while True:
    job = worker.getJob()
    message = json.loads(job.arguments)  # copies to a pattern are always envelopes
    print("bob received", message["payload"], "of", message["topic"], flush=True)
    job.sendWorkComplete()
