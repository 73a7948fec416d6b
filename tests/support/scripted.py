"""A job server that says what a test tells it to, on the event loop of the test."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from gearhorn.gearman import packets

_HEADER = struct.Struct(">4sII")
Script = Callable[["Scripted", str, Any], Any]


class Silence(Exception):
    """Raised by a script: say nothing."""


class Cut(Exception):
    """Raised by a script: end the connection."""


class Refusal(Exception):
    """Raised by a script: end the job with this warning."""


class Streamed(NamedTuple):
    """Returned by a script: pieces (WORK_DATA) ahead of what it returns otherwise, or raises."""

    pieces: list[bytes]
    end: Any


class Scripted:
    """Answers submitted jobs with what ``script`` returns for the function and the request; has no
    job for those who ask for one."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handles = iter(range(1, 1 << 30))

    @property
    def address(self) -> str:
        """HOST:PORT."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def until_left(self) -> None:
        """Wait until no connection is open."""
        while self._writers:
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                _, kind, size = _HEADER.unpack(await reader.readexactly(12))
                body = await reader.readexactly(size)
                for data in self._answer(kind, body):
                    writer.write(data)
        except (Cut, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        self._writers.discard(writer)

    def _answer(self, kind: int, body: bytes) -> Iterator[bytes]:
        if kind == packets.ECHO_REQ:
            yield _pack(packets.ECHO_RES, body)
        if kind == packets.GRAB_JOB_UNIQ:
            yield _pack(packets.NO_JOB)
        if kind != packets.SUBMIT[True]["normal"]:
            return
        function, _, arguments = body.split(b"\0", 2)
        request = json.loads(arguments)
        self.requests.append((function.decode(), request))
        handle = b"H:%d" % next(self._handles)
        yield _pack(packets.JOB_CREATED, handle)
        try:
            reply = self.script(self, function.decode(), request)
            if isinstance(reply, Streamed):
                for piece in reply.pieces:
                    yield _pack(packets.WORK_DATA, handle, piece)
                reply = reply.end
            if isinstance(reply, BaseException):
                raise reply
        except Silence:
            return
        except Refusal as error:
            yield _pack(packets.WORK_WARNING, handle, str(error).encode())
            yield _pack(packets.WORK_FAIL, handle)
            return
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        yield _pack(packets.WORK_COMPLETE, handle, data)


def _pack(kind: int, *arguments: bytes) -> bytes:
    body = b"\0".join(arguments)
    return _HEADER.pack(b"\0RES", kind, len(body)) + body
