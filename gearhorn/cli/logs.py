"""Log lines: one each, key=value or JSON, on standard error, and never in anybody's way.

Rules: the event loop only hands a line over; a thread writes it. A reader that stalls, a full disk
or a missing standard error cost log lines, never a message: what does not fit into the bounded
queue is counted, and the count is logged once there is room.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from gearhorn.logger import write_with

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# What may wait to be written; beyond either, lines are lost.
QUEUED_LINES = 10_000
QUEUED_BYTES = 8 * 1024 * 1024
FLUSH_S = 2.0  # at the end, for what still waits
_STDERR = 2


class Writer:
    """Writes lines with ``write``, on a thread of its own that ends with the process.

    Arguments:
        write: takes bytes and returns how many of them were written, as ``os.write`` does; it may
            block, and may raise ``OSError``, which costs the lines at hand.
        lost: makes the line that tells how many lines were lost before it.
    """

    def __init__(self, write: Callable[[memoryview], int], lost: Callable[[int], str]) -> None:
        self._write = write
        self._lost_line = lost
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of lines that wait
        self._lost = 0  # lines since the last one that was taken
        self._is_writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Have a line written soon; returns at once."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if len(self._lines) >= QUEUED_LINES or self._bytes + len(data) > QUEUED_BYTES:
                self._lost += 1
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                self._add(self._lost_line(lost).encode() + b"\n")
            self._add(data)
            self._changed.notify()

    def _add(self, data: bytes) -> None:
        self._lines.append(data)
        self._bytes += len(data)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Return once everything is written that was put before, or after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while self._lines or self._is_writing:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                data = b"".join(self._lines)
                self._lines.clear()
                self._bytes = 0
                self._is_writing = True
            self._write_whole(data)
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _write_whole(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write(rest) :]
        except OSError:
            pass  # there is nowhere to say so


def open_standard_streams() -> None:
    """Give the process the standard streams that it was started without.

    Otherwise the first sockets would take their numbers, and whatever writes to number 2 would
    write into one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def set_up_logs(style: str, level: str) -> Writer:
    """Make every log line ``style`` (``logfmt`` or ``json``) from ``level`` up.

    Libraries' own warnings (asyncio's among them) become lines of the same kind. Returns what
    writes them, to be flushed at the end.
    """
    render: structlog.typing.Processor
    if style == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], bool_as_flag=False
        )
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def lost(count: int) -> str:
        event = {"event": "log lines lost: nobody reads them", "level": "warning", "count": count}
        return str(render(None, "warning", stamp(None, "warning", event)))

    writer = Writer(lambda data: os.write(_STDERR, data), lost)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            _readable,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    write_with(structlog.get_logger)
    logging.root.handlers = [_Foreign()]
    logging.root.setLevel(logging.WARNING)
    return writer


class _Lines:
    """What structlog hands lines to."""

    def __init__(self, writer: Writer) -> None:
        self.msg = writer.put
        self.debug = self.info = self.warning = self.error = self.critical = self.msg


class _Foreign(logging.Handler):
    """Makes one line of ours of what a library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        error = record.exc_info[1] if record.exc_info else None
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say("a library reports", library=record.name, text=record.getMessage(), exc_info=error)


def _readable(
    logger: object, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Show bytes as text, and keep what would break a line from doing so."""
    for key, value in event.items():
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        if isinstance(text, str) and not text.isprintable():
            text = text.encode("unicode_escape").decode()
        event[key] = text
    return event
