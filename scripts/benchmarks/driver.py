"""A process that keeps foreground jobs under way on many queues: a delivery without a log.

Rules: each queue has so many jobs at a time, and gets its next one when one completes. What one
read brings is answered in one send. With a ``redis`` in the settings every completion is written
there first, one HSET each, those of one read in one send: what no durable delivery can do without.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Sequence

from support.wire import JOB_CREATED, SUBMIT_JOB, WORK_COMPLETE, packet

from benchmarks import programs
from benchmarks.raw import Stalled, connect, receive

_MAGIC = b"\0RES"  # handles have no NUL, and the receiver answers without a result


class _Queue:
    """One queue, how many jobs were sent to it, and how many of them are completed."""

    __slots__ = ("done", "name", "sent")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.sent = 0
        self.done = 0


class _Positions:
    """Writes how far a queue is, over a connection of its own."""

    def __init__(self, address: str) -> None:
        self._connection = connect(address)

    def write(self, queues: Iterable[_Queue]) -> None:
        """One HSET a completion, and wait for the answers."""
        commands = [_hset(queue.name, b"%d" % queue.done) for queue in queues]
        self._connection.sendall(b"".join(commands))
        answered = 0
        while answered < len(commands):
            data = receive(self._connection)
            if b"-" in data:
                raise Stalled(f"the store refuses: {data!r}")
            answered += data.count(b"\n")


def _hset(field: bytes, value: bytes) -> bytes:
    words = (b"HSET", b"driver:positions", field, value)
    return b"*4\r\n" + b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


class Driver:
    """``each`` jobs to every queue, ``in_flight`` of them at a time."""

    def __init__(
        self, connection: socket.socket, queues: Sequence[bytes], each: int, payload: bytes
    ) -> None:
        self._connection = connection
        self._queues = [_Queue(name) for name in queues]
        self._each = each
        self._payload = payload
        self._created: deque[_Queue] = deque()  # whose handles are to come, in order
        self._under_way: dict[bytes, _Queue] = {}
        self._rest = b""

    def start(self, in_flight: int) -> None:
        """Submit the first jobs of every queue."""
        self._send([q for q in self._queues for _ in range(min(in_flight, self._each))])

    def run(self, positions: _Positions | None) -> None:
        """Submit the others as completions come, until the last one."""
        while self._under_way or self._created:
            ended = self._read()
            for queue in ended:
                queue.done += 1
            if positions and ended:
                positions.write(ended)
            self._send(ended)

    def _send(self, queues: Iterable[_Queue]) -> None:
        packets = []
        for queue in queues:
            if queue.sent < self._each:
                queue.sent += 1
                unique = b"00000000:%d:1.1" % queue.sent  # of a delivery's form
                packets.append(packet(SUBMIT_JOB, queue.name, unique, self._payload))
                self._created.append(queue)
        self._connection.sendall(b"".join(packets))

    def _read(self) -> list[_Queue]:
        """Read once; return whose jobs ended."""
        *packets, self._rest = (self._rest + receive(self._connection)).split(_MAGIC)
        if len(self._rest) >= 8 and len(self._rest) == 8 + int.from_bytes(self._rest[4:8], "big"):
            packets.append(self._rest)
            self._rest = b""
        elif packets:
            self._rest = _MAGIC + self._rest
        ended = []
        for one in packets:
            if not one:
                continue  # what stands before the first magic
            if one[3] == JOB_CREATED:
                self._under_way[one[8:]] = self._created.popleft()
            elif one[3] == WORK_COMPLETE:
                ended.append(self._under_way.pop(one[8:-1]))
            else:
                raise Stalled(f"unexpected packet {one!r}")
        return ended


def main() -> None:
    """Drive what the settings say; the result comes when every job is completed."""
    told = programs.settings()
    connection = connect(told["address"])
    queues = [queue.encode() for queue in told["queues"]]
    driver = Driver(connection, queues, told["each"], told["payload"].encode())
    positions = _Positions(told["redis"]) if told.get("redis") else None
    driver.start(told["in_flight"])
    programs.answer("ready")
    driver.run(positions)
    programs.answer("done")


if __name__ == "__main__":
    main()
