"""Gearman packets: bytes in, packets out, and copies as one block of bytes.

Theory of operation. All copies of one message are equal but for the name of the queue, which
stands in front: ``SUBMIT queue NUL unique NUL payload``. So a packet is a *head* (magic, type,
length and queue) and a *tail* (the rest), and a block of copies is ``tail.join(heads)`` and a tail:
one call that runs in C, whatever the number of copies.

Answers are as regular. A thousand JOB_CREATED in a row are of one length and differ in the handle
only, so a regular expression finds the whole run in C, and ``Client`` takes it as one packet.

Rules: pure; packet numbers come from gear. The layout is gearmand's PROTOCOL text: magic, type
and length as three big-endian words, then arguments joined by NUL, of which only the last may
hold a NUL itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from gear import constants

from gearhorn.errors import ProtocolError

CAN_DO: Final[int] = constants.CAN_DO
CANT_DO: Final[int] = constants.CANT_DO
PRE_SLEEP: Final[int] = constants.PRE_SLEEP
NOOP: Final[int] = constants.NOOP
JOB_CREATED: Final[int] = constants.JOB_CREATED
NO_JOB: Final[int] = constants.NO_JOB
WORK_STATUS: Final[int] = constants.WORK_STATUS
WORK_COMPLETE: Final[int] = constants.WORK_COMPLETE
WORK_FAIL: Final[int] = constants.WORK_FAIL
WORK_EXCEPTION: Final[int] = constants.WORK_EXCEPTION
WORK_DATA: Final[int] = constants.WORK_DATA
WORK_WARNING: Final[int] = constants.WORK_WARNING
GET_STATUS: Final[int] = constants.GET_STATUS
STATUS_RES: Final[int] = constants.STATUS_RES
ECHO_REQ: Final[int] = constants.ECHO_REQ
ECHO_RES: Final[int] = constants.ECHO_RES
ERROR: Final[int] = constants.ERROR
SET_CLIENT_ID: Final[int] = constants.SET_CLIENT_ID
OPTION_REQ: Final[int] = constants.OPTION_REQ
GRAB_JOB_UNIQ: Final[int] = constants.GRAB_JOB_UNIQ
JOB_ASSIGN_UNIQ: Final[int] = constants.JOB_ASSIGN_UNIQ
# packet types by priority, of foreground jobs (True) and background ones
SUBMIT: Final[dict[bool, dict[str, int]]] = {
    True: {
        "low": constants.SUBMIT_JOB_LOW,
        "normal": constants.SUBMIT_JOB,
        "high": constants.SUBMIT_JOB_HIGH,
    },
    False: {
        "low": constants.SUBMIT_JOB_LOW_BG,
        "normal": constants.SUBMIT_JOB_BG,
        "high": constants.SUBMIT_JOB_HIGH_BG,
    },
}
NO_UNIQUE: Final = b"\0\0"  # what a tail without a unique id begins with

# (type, body). A negative type: the body was cut short. JOB_CREATED comes in runs: the body is
# one or more whole packets of one length, headers included (see ``handles``).
Packet = tuple[int, bytes]

MAX_UNIQUE_BYTES = 63  # a 64-byte unique id corrupts the payload (docs/gearmand.rst)
LIMIT_BYTES = 1 << 30  # a packet that claims more is a lie, and would hide what is behind it
KEPT_BYTES = 64 * 1024  # of a packet over the limit: enough for handle, function and unique id

_HEADER = struct.Struct(">4sII")
_pack_header = _HEADER.pack
_REQ: Final = constants.REQ
_RES: Final = constants.RES


def pack(kind: int, *arguments: bytes) -> bytes:
    """Return one request packet. None of ``arguments`` but the last may hold a NUL."""
    body = b"\0".join(arguments)
    return _pack_header(_REQ, kind, len(body)) + body


class _Headers(dict[int, bytes]):
    """By the length of a queue's name without its prefix, what stands before that name.

    Queues of a topic have few lengths, so most headers are found and not packed.
    """

    def __init__(self, kind: int, tail_bytes: int, prefix: bytes) -> None:
        self._kind = kind
        self._more = tail_bytes + len(prefix)
        self._prefix = prefix

    def __missing__(self, size: int) -> bytes:
        header = _pack_header(_REQ, self._kind, size + self._more) + self._prefix
        self[size] = header
        return header


def heads(queues: Iterable[bytes], kind: int, tail_bytes: int, prefix: bytes = b"") -> list[bytes]:
    """Return, per queue, the bytes of a submit packet up to its first NUL.

    ``kind`` is a value of ``SUBMIT``. ``tail_bytes`` is the length of what follows (see ``tail``),
    which the header counts; so heads serve for every message whose tail is as long. ``prefix`` is
    what the names of all the queues begin with (the topic), and is not in ``queues``.
    """
    headers = _Headers(kind, tail_bytes, prefix)
    return [headers[len(queue)] + queue for queue in queues]


def tail(unique: bytes, payload: bytes) -> bytes:
    """Return what every copy of one message ends with. ``unique`` has no NUL, and at most
    ``MAX_UNIQUE_BYTES``."""
    return b"\0" + unique + b"\0" + payload


def stride(run: bytes) -> int:
    """Return the length of each packet of a JOB_CREATED run, its header included."""
    return 12 + int.from_bytes(run[8:12])


def handles(run: bytes) -> list[bytes]:
    """Return the job handles of a JOB_CREATED run."""
    step = stride(run)
    return [run[at + 12 : at + step] for at in range(0, len(run), step)]


@lru_cache(64)  # handles of one server have few lengths
def _run_of(header: bytes) -> re.Pattern[bytes]:
    """Return what matches whole packets with this header, one after the other."""
    size = int.from_bytes(header[8:])
    return re.compile(b"(?:%b.{%d})+" % (re.escape(header), size), re.DOTALL)


class Splitter:
    """Cuts a stream of bytes into response packets, without copying a large one twice.

    ``limit`` is in bytes, no less than ``KEPT_BYTES``: a longer body is cut to that and its
    type made negative, so that a hostile gigabyte costs no memory and can still be refused.

    What is read ends in the middle of a packet as a rule. The incomplete rest is kept in pieces and
    joined once, when all of it is there: to join it with each piece would copy a payload of 8 MiB
    a hundred times.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, KEPT_BYTES)
        self._parts: list[bytes] = []  # of an incomplete packet
        self._have = 0
        self._need = 0
        self._skip = 0  # bytes still to come of a packet that was cut

    def feed(self, data: bytes) -> list[Packet]:
        """Return the packets that ``data`` completes.

        What is left of a cut packet is skipped first, or its bytes would be taken for headers. Then
        pieces are joined if they are enough for the packet that they began. The loop goes from
        header to header; ``need`` is how many bytes have to be there before it is worth running
        again. The rest is kept.

        Raises ``ProtocolError`` for what is no response packet, and for one over ``LIMIT_BYTES``.
        The packets before it are lost with the connection.
        """
        if self._skip:
            gone = min(self._skip, len(data))
            self._skip -= gone
            data = data[gone:]
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        packets: list[Packet] = []
        unpack = _HEADER.unpack_from
        at, end, need = 0, len(data), 12
        while end - at >= 12:
            magic, kind, size = unpack(data, at)
            if magic != _RES:
                raise ProtocolError(f"expected a Gearman response, got {data[at : at + 12]!r}")
            stop = at + 12 + size
            if size > self._limit:
                if size > LIMIT_BYTES:
                    raise ProtocolError(f"a packet of {size} bytes was announced")
                need = 12 + KEPT_BYTES
                if end - at < need:
                    break
                packets.append((-kind, data[at + 12 : at + need]))
                self._skip = max(0, stop - end)
                at = min(stop, end)
                need = 12
                continue
            if stop > end:
                need = 12 + size
                break
            if kind == JOB_CREATED:
                # by far the most frequent; those that came together differ in the handle only
                run = _run_of(data[at : at + 12]).match(data, at)
                assert run is not None
                packets.append((kind, run[0]))
                at = run.end()
                continue
            packets.append((kind, data[at + 12 : stop]))
            at = stop
        if at < end:
            self._parts.append(data[at:] if at else data)
            self._have = end - at
            self._need = need
        return packets
