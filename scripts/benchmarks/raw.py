"""Raw Gearman over a socket, as fast as Python can: what gearhorn is measured against.

Rules: knows no gearhorn but the size of its window, so that both sides have the same one. One
thread and one connection per call; what goes wrong is an exception.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from support.wire import (
    CAN_DO,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_EXCEPTION,
    WORK_FAIL,
    Wire,
    packet,
)

from gearhorn.gearman.client import WINDOW_BYTES, WINDOW_COPIES

ANSWER_S = 30  # a server that is silent for longer has failed
RECEIVE_BYTES = 256 * 1024
LARGE_BYTES = 32 * 1024  # from here on a payload is sent from one place instead of copied
DRAIN_GRABS = 256
DRAIN_QUEUES = 100  # per connection: gearmand looks through its functions at each grab

_ACCEPTED = b"\0RES\0\0\0\x08"  # JOB_CREATED; handles have no NUL
_HEADER = struct.Struct(">4sII")
_GRAB = packet(GRAB_JOB_UNIQ)


class Stalled(Exception):
    """The server did not answer, or closed the connection."""


def connect(address: str, answer_s: int = ANSWER_S) -> socket.socket:
    """Connect to ``HOST:PORT``; a read fails after ``answer_s`` seconds, 0 is never."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # settimeout() would poll before every call
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", answer_s, 0))
    return connection


def receive(connection: socket.socket) -> bytes:
    """The next bytes; raises ``Stalled``."""
    try:
        data: bytes = connection.recv(RECEIVE_BYTES)
    except BlockingIOError:
        raise Stalled(f"no answer in {ANSWER_S} s") from None
    if not data:
        raise Stalled("the server closed the connection")
    return data


class Copies:
    """SUBMIT_JOB_BG packets of one payload to queues in turn, made before the clock starts.

    Queue names are of one length.
    """

    def __init__(self, queues: Sequence[bytes], payload: bytes) -> None:
        self._payload = payload
        self._unit = len(packet(SUBMIT_JOB_BG, queues[0], b"", payload))
        self._count = len(queues)
        self.window = max(1, min(WINDOW_COPIES, WINDOW_BYTES // self._unit))
        packets = [packet(SUBMIT_JOB_BG, queue, b"", payload) for queue in queues]
        if any(len(one) != self._unit for one in packets):
            raise ValueError("expected queue names of one length")
        self._heads: list[bytes] = []
        self._stream = memoryview(b"")
        if len(payload) < LARGE_BYTES:
            again = -(-self.window // self._count)  # no window wraps
            self._stream = memoryview(b"".join(packets) * (1 + again))
        else:
            self._heads = [one[: -len(payload)] for one in packets]

    def send(self, connection: socket.socket, first: int, count: int) -> None:
        """Send ``count`` packets, at most a window, beginning with number ``first``."""
        if not self._heads:
            at = first % self._count * self._unit
            connection.sendall(self._stream[at : at + count * self._unit])
            return
        for number in range(first, first + count):
            connection.sendall(self._heads[number % self._count], socket.MSG_MORE)
            connection.sendall(self._payload)


def pipeline(address: str, copies: Copies, total: int) -> float:
    """Have ``total`` copies accepted, one window after the other; return the seconds it took."""
    with connect(address) as connection:
        window, piece = copies.window, max(1, copies.window // 4)
        sent = answered = 0
        rest = b""  # what may be the beginning of an answer
        began = time.perf_counter()
        while answered < total:
            room = min(window - (sent - answered), total - sent)
            if room >= piece or (room and sent + room == total):
                copies.send(connection, sent, room)
                sent += room
            data = rest + receive(connection)
            answered += data.count(_ACCEPTED)
            rest = data[1 - len(_ACCEPTED) :]
        return time.perf_counter() - began


class Received(NamedTuple):
    """What a worker was sent: handles of assigned jobs, how many NO_JOB, whether a NOOP."""

    handles: list[bytes]
    none: int
    woken: bool


class Assignments:
    """Cuts what a worker is sent; payloads are passed over unread.

    A job is told when it is here whole: gearmand frees the payload of a job that is completed
    while it still sends it, and sends what is there then.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self._coming: list[bytes] = []  # the handle of the job that is skipped

    def feed(self, data: bytes) -> Received:
        """Take what was received."""
        handles, none, woken = [], 0, False
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            if self._skip:
                return Received([], 0, False)
            handles, self._coming = self._coming, []
            data = data[passed:]
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 12:
            _, kind, size = _HEADER.unpack_from(data, at)
            if kind == JOB_ASSIGN_UNIQ:
                stop = data.find(b"\0", at + 12)
                if stop < 0:
                    break
                (handles if at + 12 + size <= end else self._coming).append(data[at + 12 : stop])
            elif kind == NO_JOB:
                none += 1
            elif kind == NOOP:
                woken = True
            else:
                raise Stalled(f"unexpected packet type {kind}")
            at += 12 + size
        self._skip = max(0, at - end)
        self._rest = data[at:]
        return Received(handles, none, woken)


def drain(address: str, queues: Sequence[bytes], grabs: int = DRAIN_GRABS) -> int:
    """Take and complete every job that waits on the queues; return how many there were."""
    return sum(
        _drain(address, queues[at : at + DRAIN_QUEUES], grabs)
        for at in range(0, len(queues), DRAIN_QUEUES)
    )


def _drain(address: str, queues: Iterable[bytes], grabs: int) -> int:
    with Wire(address, ANSWER_S) as wire:
        wire.can_do(*queues)
        connection = wire.socket
        connection.sendall(_GRAB * grabs)
        assignments = Assignments()
        out, count, dry = grabs, 0, False
        while out:
            handles, none, _ = assignments.feed(receive(connection))
            count += len(handles)
            out -= len(handles) + none
            dry = dry or none > 0
            answer = complete(handles)
            if not dry:
                answer += _GRAB * len(handles)
                out += len(handles)
            if answer:
                connection.sendall(answer)
        wire.echo()  # the completions were handled
        return count


def complete(handles: Sequence[bytes], result: bytes = b"") -> bytes:
    """WORK_COMPLETE packets, without a result unless told otherwise."""
    return b"".join([packet(WORK_COMPLETE, handle, result) for handle in handles])


def serve(address: str, queues: Sequence[bytes], result: bytes = b"") -> None:
    """Serve queues until killed: up to 64 grabs outstanding, every job answered at once."""
    connection = connect(address, answer_s=0)
    connection.sendall(b"".join([packet(CAN_DO, queue) for queue in queues]) + _GRAB)
    assignments = Assignments()
    out, most = 1, 1  # grabs that are out, and may be: a sleeper is woken for one job or many
    while True:
        handles, none, woken = assignments.feed(receive(connection))
        out -= len(handles) + none
        most = min(64, most + 2 * len(handles))
        answer = complete(handles, result)
        if none:
            most = 1
            if not out:
                answer += packet(PRE_SLEEP)
        elif handles or woken:
            answer += _GRAB * (most - out)
            out = most
        if answer:
            connection.sendall(answer)


class Caller:
    """A client of foreground jobs on one connection."""

    def __init__(self, address: str) -> None:
        self._connection = connect(address)
        self._rest = b""

    def run(self, jobs: Sequence[bytes], at_once: int | None = None) -> float:
        """Run foreground jobs to their ends, all or some at once; return the seconds it took.

        ``jobs`` are packets (see ``foreground``). A job that fails is an exception.
        """
        began = time.perf_counter()
        sent = min(len(jobs), at_once or len(jobs))
        self._connection.sendall(b"".join(jobs[:sent]))
        done = 0
        while done < len(jobs):
            ended = self._ended()
            done += ended
            if ended and sent < len(jobs):
                self._connection.sendall(b"".join(jobs[sent : sent + ended]))
                sent += ended
        return time.perf_counter() - began

    def _ended(self) -> int:
        """Read once and return how many jobs ended."""
        data = self._rest + receive(self._connection)
        at, end, ended = 0, len(data), 0
        while end - at >= 12:
            _, kind, size = _HEADER.unpack_from(data, at)
            if at + 12 + size > end:
                break
            if kind == WORK_COMPLETE:
                ended += 1
            elif kind in (WORK_FAIL, WORK_EXCEPTION):
                raise Stalled(f"a job failed: {data[at : at + 200]!r}")
            at += 12 + size
        self._rest = data[at:]
        return ended

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def foreground(function: bytes, payload: bytes) -> bytes:
    """The packet that submits a foreground job."""
    return packet(SUBMIT_JOB, function, b"", payload)
