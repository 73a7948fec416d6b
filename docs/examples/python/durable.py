"""Subscribe durably as "bob": a message that cannot be processed is delivered again."""

import json
import socket
import time

import gear


class Connection(gear.Connection):
    def connect(self):
        super().connect()
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def process(order, attempt):
    """Process one order. The first attempt fails, to show what follows."""
    if attempt == 1:
        raise RuntimeError("disk full")
    print("bob processed", order, "in attempt", attempt, flush=True)


gear.Connection = Connection  # before the first addServer

subscription = {
    "topic": "orders",
    "client_id": "bob",
    "envelope": True,  # arguments are JSON with topic, sequence, attempt and payload
    "durable": {"timeout": 10, "max_attempts": 5},  # then the message is parked
}
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
worker.registerFunction("orders_bob")
while True:
    job = worker.getJob()
    message = json.loads(job.arguments)
    try:
        process(message["payload"], message["attempt"])
    except Exception as error:
        job.sendWorkWarning(str(error).encode())  # the reason, which describe and parked show
        job.sendWorkFail()  # deliver it again, after 2 seconds, then 3, 5, 9 ...
    else:
        job.sendWorkComplete()  # acknowledged: the next message may come
