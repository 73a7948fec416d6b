"""Long lists: written straight into the store before a worker first reads them, and how other
fan-outs fare meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from support.bulk import fanout_body
from support.cluster import Cluster
from support.wire import Wire

AT_ONCE = 10_000  # in one command


def names(count: int) -> list[str]:
    """The client_ids that ``fill`` subscribes."""
    return [f"c{number:07d}" for number in range(count)]


def fill(
    url: str, topic: str, count: int, options: bytes = b"", namespace: str = "gearhorn"
) -> list[str]:
    """Subscribe so many clients to a topic that no worker has read, all with the same options."""
    clients = names(count)
    key = f"{{{namespace}}}:%s:{topic}"
    with redis.Redis.from_url(url) as store:
        for at in range(0, count, AT_ONCE):
            page = clients[at : at + AT_ONCE]
            store.zadd(key % "clients", dict.fromkeys(page, 0))
            if options:
                store.hset(key % "options", mapping=dict.fromkeys(page, options))
        store.zadd(f"{{{namespace}}}:topics", {topic: 0})
    return clients


def waiting(address: str) -> dict[str, int]:
    """How many jobs wait or run on each function of a job server."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 60) as sock:
        sock.sendall(b"status\n")
        data = bytearray()
        while data != b".\n" and not data.endswith(b"\n.\n"):
            data += sock.recv(1 << 20)
    lines = [line.split("\t") for line in data.decode().splitlines()[:-1]]
    return {line[0]: int(line[1]) for line in lines}


class Meanwhile:
    """Publishes to a small topic in a thread, one fan-out after the other: ``during`` tells how
    long they took while something else happened."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        cluster.subscribe(topic, "one", max_backlog=1000)
        cluster.publish(topic, "first")
        self._body = fanout_body(topic, "x", unique="same")
        self.took: list[float] = []

    def during(self, work: Callable[..., Any]) -> Any:
        """Return what ``work()`` returns; ``took`` has the seconds of each fan-out meanwhile."""
        stop = threading.Event()
        thread = threading.Thread(target=self._publish, args=(stop,), daemon=True)
        self.took = []
        thread.start()
        try:
            return work()
        finally:
            stop.set()
            thread.join(60)

    def _publish(self, stop: threading.Event) -> None:
        wire = Wire(self._cluster.address, timeout=60.0)
        try:
            while not stop.is_set():
                began = time.monotonic()
                outcome = wire.run(b"fanout", self._body, 60.0)
                self.took.append(time.monotonic() - began)
                assert outcome.data == b"1", outcome
                time.sleep(0.002)
        finally:
            wire.close()

    @property
    def worst(self) -> float:
        """The longest, in seconds."""
        return max(self.took)
