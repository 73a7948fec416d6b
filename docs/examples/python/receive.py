"""Subscribe as "bob", then receive until stopped."""

import json
import socket
import time

import gear


class Connection(gear.Connection):
    def connect(self):
        super().connect()
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


gear.Connection = Connection  # before the first addServer

client = gear.Client()
client.addServer("localhost", 4730)
client.waitForServer(timeout=10)
job = gear.Job("subscribe_fanout", json.dumps({"topic": "news", "client_id": "bob"}).encode())
client.submitJob(job)
while not job.complete:
    time.sleep(0.01)
if job.failure:
    raise SystemExit(b"".join(job.data).decode())

worker = gear.Worker("bob")
worker.addServer("localhost", 4730)
worker.registerFunction("news_bob")
while True:
    job = worker.getJob()
    print("bob received", job.arguments.decode(), flush=True)
    job.sendWorkComplete(b"thanks from bob")
