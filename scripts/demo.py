"""``scripts/run demo``: three subscribers, one message in the background, one in the foreground.

It starts a job server, a store and a gearhorn-worker on ports of its own. What follows is done as
any program would do it that knows Gearman and has never heard of gearhorn's Python package.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import gear

from gearhorn.standalone.child import HOST, PORTS, StandaloneError
from gearhorn.standalone.servers import start

TOPIC = "news"
ANSWERS = {"alice": "tea, please", "bob": "coffee", "carol": "nothing for me"}
PATIENCE_S = 15.0  # for each step; they take milliseconds, and the first start a second
STOP_S = 20.0  # a worker may take 15 to finish what is in hand
GEAR_ERRORS = (gear.GearmanError, gear.NoConnectedServersError, gear.TimeoutError)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Connection(gear.Connection):  # type: ignore[misc]  # gear is untyped
    """gear's own leaves 40 ms between a worker's completion and its next job."""

    def connect(self) -> None:
        super().connect()
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


gear.Connection = Connection


class DemoError(Exception):
    """Something did not happen; the text says what."""


class Arrival(NamedTuple):
    """One copy as a subscriber received it; ``at`` is ``time.perf_counter()``."""

    client_id: str
    payload: str
    at: float


class Client(gear.Client):  # type: ignore[misc]  # gear is untyped
    """A publisher that waits for the end of its jobs."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__("demo")
        self._ended = threading.Event()
        self.addServer(*address)
        self.waitForServer(timeout=PATIENCE_S)

    def run(self, function: str, request: dict[str, Any]) -> str:
        """Run one foreground job and return its result."""
        job = gear.Job(function, json.dumps(request).encode())
        self._ended.clear()
        self.submitJob(job)
        if not self._ended.wait(PATIENCE_S):
            raise DemoError(f"{function} was not answered within {PATIENCE_S:.0f} s")
        text = b"".join(job.data).decode()
        if job.failure:
            raise DemoError(f"{function} failed: {text}")
        return text

    def handleWorkComplete(self, packet: gear.Packet) -> None:
        super().handleWorkComplete(packet)
        self._ended.set()

    def handleWorkFail(self, packet: gear.Packet) -> None:
        super().handleWorkFail(packet)
        self._ended.set()


@contextmanager
def subscriber(
    client_id: str, address: tuple[str, int], arrivals: queue.Queue[Arrival]
) -> Iterator[None]:
    """Serve the queue of one subscription in a thread."""
    worker = gear.Worker(client_id)
    worker.addServer(*address)
    worker.waitForServer(timeout=PATIENCE_S)
    worker.registerFunction(f"{TOPIC}_{client_id}")

    def serve() -> None:
        while True:
            try:
                job = worker.getJob()
            except gear.InterruptedError:
                return
            arrivals.put(Arrival(client_id, job.arguments.decode(), time.perf_counter()))
            job.sendWorkComplete(ANSWERS[client_id].encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stopWaitingForJobs()
        thread.join(PATIENCE_S)
        worker.shutdown()


def _end_with_the_demo() -> None:
    """Between fork and exec: end when the demo does, even if that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def worker_process(address: tuple[str, int], redis: str) -> Iterator[None]:
    """Run a gearhorn-worker between the two servers."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gearhorn.cli.worker", "{}:{}".format(*address)),
            *("--redis", redis, "--log-level", "warning"),
        ],
        env=environment,
        preexec_fn=_end_with_the_demo,  # noqa: PLW1509  # no threads yet
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """Return a port that nobody has."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise DemoError(f"of 100 ports between {PORTS[0]} and {PORTS[-1]} none is free")


def publish(client: Client, arrivals: queue.Queue[Arrival], request: dict[str, Any]) -> str:
    """Publish, tell what arrived where and when, and return the reply."""
    print(f"     fanout  {json.dumps(request)}\n")
    began = time.perf_counter()
    reply = client.run("fanout", request)
    lines = [((time.perf_counter() - began) * 1000, "reply", f"  {legible(reply)}")]
    missing = set(ANSWERS)
    while missing:
        try:
            arrival = arrivals.get(timeout=PATIENCE_S)
        except queue.Empty:
            names = ", ".join(sorted(missing))
            raise DemoError(f"nothing reached {names} within {PATIENCE_S:.0f} s") from None
        if arrival.payload != request["payload"] or arrival.client_id not in missing:
            raise DemoError(f"{arrival.client_id} received {arrival.payload!r}")
        missing.discard(arrival.client_id)
        ms = (arrival.at - began) * 1000
        lines.append((ms, arrival.client_id, f'  received "{arrival.payload}"'))
    for ms, who, what in sorted(lines):
        print(f"     {ms:5.1f} ms  {who:6}{what}")
    return reply


def legible(reply: str) -> str:
    """Return a reply with one key of a receipt per line, in the column of replies."""
    value = json.loads(reply)
    if not isinstance(value, dict):
        return reply
    keys = [f"{json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
    return "{" + f",\n{'':24}".join(keys) + "}"


def show(address: tuple[str, int]) -> None:
    """Subscribe three clients and publish to them twice."""
    arrivals: queue.Queue[Arrival] = queue.Queue()
    client = Client(address)
    with ExitStack() as running:
        running.callback(client.shutdown)
        print(f'\n1. Three hosts subscribe to the topic "{TOPIC}". Each has a queue of its own.\n')
        for client_id in ANSWERS:
            running.enter_context(subscriber(client_id, address, arrivals))
            who = {"topic": TOPIC, "client_id": client_id}
            reply = json.loads(client.run("subscribe_fanout", who))
            print(f"     {client_id:6}  serves the queue {reply['queue']}")

        print("\n2. Somebody publishes once. The reply comes when every copy is in its queue.\n")
        request: dict[str, Any] = {
            "topic": TOPIC,
            "payload": "The kettle is on.",
            "background": True,
        }
        reply = publish(client, arrivals, request)
        if reply != str(len(ANSWERS)):
            raise DemoError(f"the message was copied to {reply} subscribers instead of 3")

        print("\n3. Once more, waiting for them. The reply comes when all have done their work;")
        print("   it is a receipt with what each of them returned.\n")
        request = {"topic": TOPIC, "payload": "What will you have?", "receipt": True}
        receipt = json.loads(publish(client, arrivals, request))
        if receipt["results"] != ANSWERS:
            raise DemoError(f"the receipt has other results than {ANSWERS}")


def main() -> int:
    """Show it; return 0, or 1 if anything did not arrive in time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with start(gearman_port=free_port()) as servers:
            host, _, port = servers.gearman.rpartition(":")
            address = host, int(port)
            print(f"job server  {servers.gearman}  {servers.job_server}")
            print(f"store       {servers.redis}  {servers.store}")
            print(f"worker      gearhorn-worker {servers.gearman} --redis {servers.redis}")
            with worker_process(address, servers.redis):
                show(address)
    except (DemoError, StandaloneError, *GEAR_ERRORS) as error:
        print(f"demo: {str(error) or 'the job server does not answer'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\nEverything arrived; the three servers are stopped. Now start your own: scripts/run")
    print("and beside it: .venv/bin/gearhorn listen news, .venv/bin/gearhorn publish news hello")
    print("What to do with it, in ten minutes: docs/tutorial.rst")
    return 0


if __name__ == "__main__":
    sys.exit(main())
