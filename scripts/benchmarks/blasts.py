"""What is published to those who listen, made beforehand and sent in one go from a bare socket.

Rules: every topic gets the sequences in order, topics in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import numbered
from benchmarks.raw import Stalled, connect, receive


def messages(topics: Sequence[str], each: int) -> Iterator[tuple[str, str]]:
    """The topic and the payload of every message."""
    for sequence in range(1, each + 1):
        payload = numbered.payload(sequence)
        for topic in topics:
            yield topic, payload


def publish_redis(address: str, published: Sequence[tuple[bytes, bytes]]) -> None:
    """PUBLISH each (channel, data); returns when the server has answered all of it."""
    commands = [
        b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, len(data), data)
        for name, data in published
    ]
    with connect(address) as connection:
        connection.sendall(b"".join(commands))
        answered = 0
        while answered < len(commands):
            data = receive(connection)
            if b"-" in data or b":0\r" in data:
                raise Stalled(f"the store refuses, or has no listener: {data[:200]!r}")
            answered += data.count(b"\n")


def publish_nats(address: str, published: Sequence[tuple[bytes, bytes]]) -> None:
    """PUB each (subject, data); returns when the server has read all of it."""
    commands = [b"PUB %s %d\r\n%s\r\n" % (name, len(data), data) for name, data in published]
    with connect(address) as connection:
        receive(connection)  # INFO
        connection.sendall(b'CONNECT {"verbose":false}\r\n')
        connection.sendall(b"".join(commands) + b"PING\r\n")
        data = b""
        while b"PONG" not in data:
            data = data[-4:] + receive(connection)
            if b"-ERR" in data:
                raise Stalled(f"nats-server refuses: {data[:200]!r}")
