"""A raw Gearman client of sockets and structs: eyes of their own for the tests.

Nothing here may import gear or gearhorn. One thread per Wire. A packet that arrives out of turn is
an AssertionError, never skipped, except that `submit` keeps what comes before its answer for the
next `recv`.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

CAN_DO, CANT_DO, RESET_ABILITIES, PRE_SLEEP, NOOP = 1, 2, 3, 4, 6
SUBMIT_JOB, JOB_CREATED, GRAB_JOB, NO_JOB, JOB_ASSIGN = 7, 8, 9, 10, 11
WORK_STATUS, WORK_COMPLETE, WORK_FAIL, GET_STATUS = 12, 13, 14, 15
ECHO_REQ, ECHO_RES, SUBMIT_JOB_BG, ERROR, STATUS_RES = 16, 17, 18, 19, 20
SUBMIT_JOB_HIGH, SET_CLIENT_ID, CAN_DO_TIMEOUT, ALL_YOURS, WORK_EXCEPTION = 21, 22, 23, 24, 25
OPTION_REQ, OPTION_RES, WORK_DATA, WORK_WARNING, GRAB_JOB_UNIQ, JOB_ASSIGN_UNIQ = (
    26,
    27,
    28,
    29,
    30,
    31,
)
SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW, SUBMIT_JOB_LOW_BG = 32, 33, 34
SUBMIT_JOB_SCHED, SUBMIT_JOB_EPOCH, GRAB_JOB_ALL, JOB_ASSIGN_ALL, GET_STATUS_UNIQUE = (
    35,
    36,
    39,
    40,
    41,
)

_SUBMITS = {
    ("high", False): SUBMIT_JOB_HIGH,
    ("high", True): SUBMIT_JOB_HIGH_BG,
    ("normal", False): SUBMIT_JOB,
    ("normal", True): SUBMIT_JOB_BG,
    ("low", False): SUBMIT_JOB_LOW,
    ("low", True): SUBMIT_JOB_LOW_BG,
}
_LISTS = {"status", "workers", "show jobs", "show unique jobs", "prioritystatus"}


class Refused(Exception):
    """The server answered a submit with ERROR: `code` and `text` are its two words."""

    def __init__(self, body: bytes) -> None:
        code, _, text = body.partition(b"\0")
        self.code, self.text = code.decode(), text.rstrip(b"\0").decode()
        super().__init__(f"{self.code}: {self.text}")


class Assigned(NamedTuple):
    """A job that the server gave to this connection."""

    handle: bytes
    function: bytes
    unique: bytes
    payload: bytes


class Outcome(NamedTuple):
    """How a foreground job ended: `data` is every WORK_DATA and the last packet's data, joined."""

    kind: str  # "complete", "fail" or "exception"
    data: bytes
    warnings: list[bytes]
    statuses: list[tuple[int, int]]


def packet(type: int, *args: bytes) -> bytes:
    """One request packet: `args` joined with NUL behind the header."""
    body = b"\0".join(args)
    return struct.pack(">4sII", b"\0REQ", type, len(body)) + body


class Wire:
    """One connection to the job server at `address` ("HOST:PORT"), as client, worker or both."""

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        host, _, port = address.rpartition(":")
        self.timeout = timeout  # seconds, the default for every wait
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = bytearray()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._asleep = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; jobs in hand go back to the server's queues."""
        self.socket.close()

    # Packets

    def send(self, type: int, *args: bytes) -> None:
        """Send one request packet, `args` joined with NUL."""
        self.send_raw(packet(type, *args))

    def send_raw(self, data: bytes) -> None:
        """Send `data` as it is."""
        self.socket.settimeout(self.timeout)
        self.socket.sendall(data)

    def recv(self, timeout: float | None = None) -> tuple[int, bytes]:
        """The next packet as (type, body).

        TimeoutError after `timeout` seconds, EOFError when the server has closed.
        """
        if self._kept:
            return self._kept.popleft()
        return self._read(time.monotonic() + (self.timeout if timeout is None else timeout))

    def expect(self, type: int, timeout: float | None = None) -> bytes:
        """The body of the next packet, which must be of this type (AssertionError otherwise)."""
        got, body = self.recv(timeout)
        assert got == type, f"expected packet type {type}, got {got}: {body[:200]!r}"
        return body

    def expect_nothing(self, timeout: float = 0.1) -> None:
        """AssertionError if a packet comes before an echo is answered, or `timeout` s later."""
        self.echo(b"anything else?")
        try:
            got, body = self.recv(timeout)
        except TimeoutError:
            return
        raise AssertionError(f"expected silence, got packet type {got}: {body[:200]!r}")

    def echo(self, data: bytes = b"are you there?") -> None:
        """One round trip: whatever was sent before has been handled when this returns."""
        self.send(ECHO_REQ, data)
        assert self.expect(ECHO_RES) == data

    def _read(self, deadline: float) -> tuple[int, bytes]:
        header = self._bytes(12, deadline)
        magic, type, size = struct.unpack(">4sII", header)
        assert magic == b"\0RES", f"bad magic {magic!r}"
        body = self._bytes(12 + size, deadline)[12:]
        del self._input[: 12 + size]
        return type, body

    def _bytes(self, count: int, deadline: float) -> bytes:
        """The first `count` bytes of the input, which stay there."""
        while len(self._input) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no packet in time (have {len(self._input)} bytes of {count})")
            self.socket.settimeout(left)
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise EOFError("the server closed the connection")
            self._input += chunk
        return bytes(memoryview(self._input)[:count])

    # Client

    def submit(
        self,
        function: bytes,
        payload: bytes = b"",
        unique: bytes = b"",
        background: bool = False,
        priority: str = "normal",
    ) -> bytes:
        """Submit a job and return its handle; Refused if the server answers ERROR.

        `priority` is "high", "normal" or "low".
        """
        self.send(_SUBMITS[priority, background], function, unique, payload)
        deadline = time.monotonic() + self.timeout
        while True:
            type, body = self._read(deadline)
            if type == JOB_CREATED:
                return body
            if type == ERROR:
                raise Refused(body)
            self._kept.append((type, body))

    def run(
        self, function: bytes, payload: bytes = b"", timeout: float = 10.0, exceptions: bool = False
    ) -> Outcome:
        """Run one foreground job to its end; with `exceptions` the option is set first."""
        if exceptions:
            self.send(OPTION_REQ, b"exceptions")
            assert self.expect(OPTION_RES) == b"exceptions"
        return self.outcome(self.submit(function, payload), timeout)

    def outcome(self, handle: bytes, timeout: float = 10.0) -> Outcome:
        """Wait for the end of the foreground job `handle`; TimeoutError after `timeout` s."""
        deadline = time.monotonic() + timeout
        kinds = {WORK_COMPLETE: "complete", WORK_FAIL: "fail", WORK_EXCEPTION: "exception"}
        data, warnings, statuses = b"", list[bytes](), list[tuple[int, int]]()
        while True:
            type, body = self.recv(deadline - time.monotonic())
            whose, _, rest = body.partition(b"\0")
            assert whose == handle, f"packet type {type} for another job {whose!r}, not {handle!r}"
            if type in kinds:
                return Outcome(kinds[type], data + rest, warnings, statuses)
            if type == WORK_DATA:
                data += rest
            elif type == WORK_WARNING:
                warnings.append(rest)
            elif type == WORK_STATUS:
                done, _, total = rest.partition(b"\0")
                statuses.append((int(done), int(total.rstrip(b"\0"))))
            else:
                raise AssertionError(f"unexpected packet type {type}: {body[:200]!r}")

    def status(self, handle: bytes) -> tuple[bool, bool]:
        """What GET_STATUS says of a job: (known, running)."""
        self.send(GET_STATUS, handle)
        whose, known, running, *_ = self.expect(STATUS_RES).split(b"\0")
        assert whose == handle
        return known == b"1", running == b"1"

    # Worker

    def can_do(self, *functions: bytes) -> None:
        """Serve these functions; they are known to the server when this returns."""
        for function in functions:
            self.send(CAN_DO, function)
        self.echo()

    def grab(self, timeout: float | None = None) -> Assigned | None:
        """The next job, or None if none came within `timeout` seconds of sleep (PRE_SLEEP)."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        self.send(GRAB_JOB_UNIQ)
        grabbing = True
        while True:
            try:
                type, body = self.recv(max(deadline - time.monotonic(), 1.0 if grabbing else 0.0))
            except TimeoutError:
                return None
            if type == JOB_ASSIGN_UNIQ:
                return Assigned(*body.split(b"\0", 3))
            if type == NO_JOB:
                self.send(PRE_SLEEP)
                grabbing = False
            elif type == NOOP:
                if not grabbing:  # otherwise a late one of an earlier sleep
                    self.send(GRAB_JOB_UNIQ)
                    grabbing = True
            else:
                raise AssertionError(f"unexpected packet type {type}: {body[:200]!r}")

    def grab_now(self) -> Assigned | None:
        """The next job that is waiting already, or None; no sleep."""
        self.send(GRAB_JOB_UNIQ)
        type, body = self.recv()
        if type == NO_JOB:
            return None
        assert type == JOB_ASSIGN_UNIQ, f"unexpected packet type {type}: {body[:200]!r}"
        return Assigned(*body.split(b"\0", 3))

    def complete(self, handle: bytes, data: bytes = b"") -> None:
        """End a job well (WORK_COMPLETE)."""
        self.send(WORK_COMPLETE, handle, data)

    def fail(self, handle: bytes) -> None:
        """End a job badly (WORK_FAIL)."""
        self.send(WORK_FAIL, handle)

    def exception(self, handle: bytes, data: bytes = b"") -> None:
        """End a job with an exception (WORK_EXCEPTION)."""
        self.send(WORK_EXCEPTION, handle, data)

    def warn(self, handle: bytes, data: bytes) -> None:
        """Send a warning to the job's clients (WORK_WARNING)."""
        self.send(WORK_WARNING, handle, data)

    def data(self, handle: bytes, data: bytes) -> None:
        """Send a part of the result to the job's clients (WORK_DATA)."""
        self.send(WORK_DATA, handle, data)

    def progress(self, handle: bytes, done: int, total: int) -> None:
        """Tell the job's clients how far it is (WORK_STATUS)."""
        self.send(WORK_STATUS, handle, b"%d" % done, b"%d" % total)


def admin(address: str, line: str, timeout: float = 10.0) -> str | list[str]:
    """One command of the text protocol, on a connection of its own.

    A list of lines, without the closing dot, for status, workers, show jobs, show unique jobs and
    prioritystatus; one line without its end for everything else and for an ERR answer.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(line.encode() + b"\r\n")
        answer = b""
        while not _is_whole(answer, is_list=line in _LISTS):
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise EOFError(f"the server closed the connection after {answer!r}")
            answer += chunk
    text = answer.decode("utf-8", "surrogateescape")
    if line not in _LISTS or text.startswith("ERR"):
        return text.rstrip("\r\n")
    return text.split("\n")[:-2]


def _is_whole(answer: bytes, is_list: bool) -> bool:
    """Whether all of the answer is here: to the dot on its own line, or to the newline."""
    if is_list and not answer.startswith(b"ERR"):
        return answer == b".\n" or answer.endswith(b"\n.\n")
    return answer.endswith(b"\n")
