"""Connections to the embedded job server: bytes in, requests out, and answers waiting to be sent.

Packets and text commands share the port, as in gearmand: a request packet begins with a NUL byte,
and whatever begins with another one is a line of text.

Rules: a link is read, answered and written on the poll thread only. Nothing is sent when it is
answered: answers are collected, and leave in one send when everything that was read is handled.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import gear
from gear import constants

from gearhorn.standalone.queues import Peer

# Bytes of a text command, as in gearmand.
MAX_LINE = 8192
# Magic, type, length of the body.
HEADER = struct.Struct(">4sII")


class Link(gear.ServerConnection, Peer):  # type: ignore[misc]  # gear is untyped
    """One accepted connection.

    gear's class gives what its threads use: the socket (``conn``), the address of the other end,
    and ``client_id``. What gear would read and send with is not used.

    Attributes:
        received: bytes that are no whole request yet.
        unsent: answers that the socket has not taken. They have no bound: this server is for one
            machine, whose clients harm themselves.
    """

    def __init__(self, address: tuple[str, int], accepted: socket.socket) -> None:
        gear.ServerConnection.__init__(self, address, accepted, use_ssl=False, client_id=None)
        Peer.__init__(self)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.unsent = bytearray()

    def receive(self, data: bytes | memoryview) -> None:
        """Take what was read, for ``requests``."""
        self.received += data

    def send(self, *data: bytes) -> None:
        """Have this written by the next ``flush``. The pieces are joined here, once."""
        for piece in data:
            self.unsent += piece

    def name(self, client_id: bytes) -> None:
        """Its client gives its name, which ``workers`` shows."""
        self.client_id = client_id

    def requests(self) -> Iterator[tuple[int | None, bytes]]:
        """Take the whole requests out of ``received``: (packet type, body) or (None, text line).

        What is left of it is an incomplete request. What was taken is deleted once, at the end, and
        also if the caller stops early because a request broke the protocol.

        Raises gear.InvalidDataError for bytes that begin neither a request packet nor a line, and
        for a line of more than ``MAX_LINE`` bytes. The requests before it have been taken.
        """
        data, start = self.received, 0
        try:
            while start < len(data):
                if data[start]:
                    kind, begin, end = None, start, data.find(b"\n", start) + 1
                    if not end and len(data) - start > MAX_LINE:
                        raise gear.InvalidDataError("line too long")
                else:
                    if len(data) - start < HEADER.size:
                        return
                    magic, kind, size = HEADER.unpack_from(data, start)
                    if magic != constants.REQ:
                        raise gear.InvalidDataError(f"bad magic {magic!r}")
                    begin = start + HEADER.size
                    end = begin + size if begin + size <= len(data) else 0
                if not end:
                    return
                body, start = bytes(data[begin:end]), end
                yield kind, body
        finally:
            del data[:start]

    def flush(self) -> None:
        """Write what the socket takes; the rest waits until epoll says that there is room.

        gear registers its sockets for both directions and edge-triggered, so that word comes once
        for each time the socket was full, and then this is called again. Never raises.
        """
        try:
            while self.unsent:
                del self.unsent[: self.conn.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()  # the other end has gone; the poll loop sees the hang-up
