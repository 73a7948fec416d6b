"""A process that takes jobs and completes them: the receiver of every delivery over Gearman.

Rules: queues are spread over connections of at most 100, because gearmand looks through a
connection's functions at each grab. Each connection has 16 grabs outstanding; what one read brings
is completed, and grabbed anew, in one send. The second word of a unique id is the sequence; where
the settings say ``is_copied`` it stands in the payload (see ``benchmarks.numbered``).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence

from support.wire import (
    CAN_DO,
    ECHO_REQ,
    ECHO_RES,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    packet,
)

from benchmarks import numbered, programs
from benchmarks.raw import ANSWER_S, DRAIN_QUEUES, Stalled, complete, connect, receive
from benchmarks.reception import Reception

GRABS = 16  # what the project's references were measured with
_GRAB = packet(GRAB_JOB_UNIQ)
_SLEEP = packet(PRE_SLEEP)


class _Connection:
    """One connection that serves some of the queues."""

    def __init__(
        self,
        address: str,
        queues: Sequence[bytes],
        reception: Reception[bytes],
        sequence_of: Callable[[bytes, bytes], int],
    ) -> None:
        self.socket: socket.socket = connect(address)
        self._reception = reception
        self._sequence_of = sequence_of
        self._queues = queues
        self._rest = b""
        self._out = 0  # grabs that are not answered

    def start(self) -> None:
        """Ask for jobs."""
        can_do = b"".join([packet(CAN_DO, queue) for queue in self._queues])
        self.socket.sendall(can_do + _GRAB * GRABS)
        self._out = GRABS

    def read(self) -> None:
        """Read once; complete what came, and grab or sleep."""
        took, sequence_of = self._reception.took, self._sequence_of
        data = self._rest + receive(self.socket)
        at, end = 0, len(data)
        handles, none, woken = [], 0, False
        while end - at >= 12:
            kind = data[at + 7]
            stop = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
            if stop > end:
                break
            if kind == JOB_ASSIGN_UNIQ:
                handle, queue, unique, body = data[at + 12 : stop].split(b"\0", 3)
                took(queue, sequence_of(unique, body))
                handles.append(handle)
            elif kind == NO_JOB:
                none += 1
            elif kind == NOOP:
                woken = True
            else:
                raise Stalled(f"unexpected packet type {kind}: {data[at:stop]!r}")
            at = stop
        self._rest = data[at:]
        self._out -= len(handles) + none
        answer = complete(handles)
        if not none and (handles or woken):
            answer += _GRAB * (GRABS - self._out)
            self._out = GRABS
        elif not self._out:
            answer += _SLEEP
        if answer:
            self.socket.sendall(answer)

    def confirm(self) -> None:
        """Wait until gearmand has handled the completions; jobs that come now are left to it."""
        self.socket.sendall(packet(ECHO_REQ, b"end"))
        tail = b""
        while b"\0RES\0\0\0%c\0\0\0\3end" % ECHO_RES not in tail:
            tail = tail[-14:] + receive(self.socket)


def _of_delivery(unique: bytes, _: bytes) -> int:
    return int(unique.split(b":")[1])


def _of_copy(_: bytes, body: bytes) -> int:
    return numbered.sequence_of(body)


def main() -> None:
    """Receive what the settings say, from the moment that this is started."""
    told = programs.settings()
    queues = [queue.encode() for queue in told["queues"]]
    reception = Reception(queues, told["each"], told["pids"], told.get("seconds", float("inf")))
    sequence_of = _of_copy if told.get("is_copied") else _of_delivery
    connections = {}
    poll = select.epoll()
    for at in range(0, len(queues), DRAIN_QUEUES):
        served = queues[at : at + DRAIN_QUEUES]
        connection = _Connection(told["address"], served, reception, sequence_of)
        connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    programs.answer("ready")
    for connection in connections.values():
        connection.start()
    while not reception.is_over():
        ready = poll.poll(ANSWER_S)
        if not ready:
            raise Stalled(f"nothing came for {ANSWER_S} s: {reception.missing()}")
        for number, _ in ready:
            connections[number].read()
    for connection in connections.values():
        connection.confirm()
    programs.answer(reception.result())


if __name__ == "__main__":
    main()
