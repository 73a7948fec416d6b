"""A line between workers and a job server: slow, or with answers that the server never gave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

BUFFER = 64 * 1024  # small: what leaves a worker is soon at the other end


def answer(kind: int, body: bytes = b"") -> bytes:
    """One packet of a job server."""
    return struct.pack(">4sII", b"\0RES", kind, len(body)) + body


class Session:
    """One connection of a worker."""

    def __init__(self, line: Line, near: socket.socket, far: socket.socket) -> None:
        self._line = line
        self._near = near
        self._far = far
        self._lock = threading.Lock()
        self.said = b""  # by the worker, the beginning of it
        self.is_over = False
        self.is_hidden = False  # nothing that the server says reaches the worker
        for pump in (self._up, self._down):
            threading.Thread(target=pump, daemon=True).start()

    def inject(self, data: bytes) -> None:
        """Say something to the worker in the server's place."""
        with self._lock, contextlib.suppress(OSError):
            self._near.sendall(data)

    def _up(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._near.recv(16 * 1024):
                if len(self.said) < BUFFER:
                    self.said += data
                if self._line.bytes_s:
                    time.sleep(len(data) / self._line.bytes_s)
                self._far.sendall(data)
        self.close()

    def _down(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._far.recv(BUFFER):
                if self.is_hidden:
                    continue
                with self._lock:
                    self._near.sendall(data)
        self.close()

    def close(self) -> None:
        """End the connection at both ends."""
        self.is_over = True
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Line:
    """Stands before a job server. `bytes_s` is how fast each connection's way there is; 0: as fast
    as it can be. `most` connections are carried, others wait until there may be more."""

    def __init__(self, address: str, bytes_s: float = 0, most: int = 1000) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self.bytes_s = bytes_s
        self.most = most
        self.sessions: list[Session] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(100)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for session in self.sessions:
            session.close()

    def speaking_of(self, words: bytes) -> list[Session]:
        """The connections that live and on which a worker said this at the beginning."""
        return [one for one in self.sessions if words in one.said and not one.is_over]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                while len(self.sessions) >= self.most:
                    time.sleep(0.02)
                far = socket.create_connection(self._target)
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sessions.append(Session(self, near, far))
