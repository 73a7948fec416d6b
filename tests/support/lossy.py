"""A line to a server that loses answers, holds requests back, is slow, or is cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Lossy:
    """Carries connections to the server at `address`; `port` is where it listens itself."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._losing = self._holding = b""
        self._open = threading.Event()
        self._open.set()
        self._is_cut = False
        self._bytes_per_s = 0.0
        self.lost = threading.Event()  # an answer
        self.held = threading.Event()  # a request
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, word: bytes) -> None:
        """Once: carry the next request that has this word, and cut its connection instead of
        bringing the answer.

        The server's end stays open until `close`: gearmand discards a foreground job of which the
        caller has left before a worker took it, and then the request would be lost too.
        """
        self.lost.clear()
        self._losing = word

    def hold(self, word: bytes) -> None:
        """Carry no request that has this word, nor what comes behind it, until `release`."""
        self.held.clear()
        self._open.clear()
        self._holding = word

    def release(self) -> None:
        """Carry what is held."""
        self._holding = b""
        self._open.set()

    def throttle(self, bytes_per_s: float) -> None:
        """Carry large requests no faster than this."""
        self._bytes_per_s = bytes_per_s

    def cut(self) -> None:
        """Cut every connection, and let none through until `mend`."""
        self._is_cut = True
        self._close_all()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def close(self) -> None:
        """Close everything."""
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_all()

    def _close_all(self) -> None:
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets += near, far
                doomed = threading.Event()
                for work in (self._carry, self._bring):
                    threading.Thread(target=work, args=(near, far, doomed), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                if self._losing and self._losing in data:
                    self._losing = b""
                    doomed.set()
                if self._holding and self._holding in data:
                    self.held.set()
                    self._open.wait()
                if self._bytes_per_s and len(data) > 8000:
                    time.sleep(len(data) / self._bytes_per_s)
                far.sendall(data)
            if not doomed.is_set():
                far.shutdown(socket.SHUT_RDWR)

    def _bring(self, near: socket.socket, far: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                if doomed.is_set():
                    near.shutdown(socket.SHUT_RDWR)
                    self.lost.set()
                    return
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)
