"""Log lines: one each, key=value or JSON, on standard error, and never in the way of messages.

Theory of operation. Standard error is often a pipe to a log collector. When the collector stands
still the pipe is full after 64 KiB, and the next write blocks: on the event loop, that would stop
the member, which loses its lease and its jobs to others because of a log line. A pipe cannot be
written to without blocking in a portable way, since the mode belongs to the open file that other
processes share. So the event loop only hands a line over, and a thread writes it.

The queue between them is bounded in lines and bytes. What does not fit is dropped and counted, and
the count becomes a line of its own as soon as there is room, ahead of the next line: a gap in the
log says that it is one.

Rules: a reader that stalls, a full disk or a missing standard error cost log lines, never a
message. No value of a line can break it in two, or a reader would take a part of a payload for a
line.
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
# What may wait to be written; beyond either, lines are lost. The bytes count, too, because one
# traceback may be as long as a thousand lines.
QUEUED_LINES = 10_000
QUEUED_BYTES = 8 * 1024 * 1024
FLUSH_S = 2.0  # at the end, for what still waits: a reader that stalls must not keep the process
_STDERR = 2  # the descriptor: ``sys.stderr`` has a buffer and a lock of its own


class Writer:
    """Writes lines with ``write``, on a thread of its own that ends with the process.

    Arguments:
        write: takes bytes and returns how many of them were written, as ``os.write`` does; it may
            block, and may raise ``OSError``, which costs the lines at hand.
        lost: makes the line that tells how many lines were lost before it.

    Everything but ``_write`` itself is done under ``_changed``'s lock, for a few microseconds. The
    thread is a daemon: a write that blocks for good does not keep the process from ending.
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
        """Have a line written soon; returns at once, from whatever thread.

        Characters that are no Unicode (a lone surrogate, from a name that was undecodable) are
        shown as escapes, since logging must not raise.
        """
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
        """Return once everything is written that was put before, or after ``timeout_s`` seconds.

        Called when the command ends (``os._exit`` would not wait for the thread).
        """
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while self._lines or self._is_writing:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return

    def _run(self) -> None:
        """Write what waits, all of it in one go, outside of the lock; without end.

        ``_is_writing`` tells ``flush`` that what was taken out of the queue is still on its way.
        """
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
        """Write all of it; a pipe may take a part at a time. What fails costs these lines, and the
        next ones are tried again: a disk may have room by then."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write(rest) :]
        except OSError:
            pass  # there is no place to report it


def open_standard_streams() -> None:
    """Give the process the standard streams that it was started without.

    Some supervisors close them. Then the first sockets would take their numbers, and whatever
    writes to number 2, log lines or a crash of the interpreter, would write into a connection to a
    job server. Called before anything is opened. Python leaves ``sys.stdout`` and ``sys.stderr`` at
    None in such a process, which click cannot print to.
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

    The processors stand in the order in which they need each other: level and time first,
    tracebacks become text, then every text is made harmless, and only then is it rendered. The line
    about lost lines takes a shorter way, from the thread of the caller that finds room again: it
    must not pass through structlog, which would put it into the queue that is being filled.

    Arguments:
        style: ``logfmt`` or ``json``.
        level: a key of ``LEVELS``; what is below costs nothing but a call.
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
        event = {"event": "log lines lost: they are not read", "level": "warning", "count": count}
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
    """What structlog hands lines to: every level is written in the same way. Levels that are not
    logged never come here (``make_filtering_bound_logger``)."""

    def __init__(self, writer: Writer) -> None:
        self.msg = writer.put
        self.debug = self.info = self.warning = self.error = self.critical = self.msg


class _Foreign(logging.Handler):
    """Makes one line of ours of what a library logs.

    The event is always the same, so that it can be searched for and documented; the library's text
    is a value.
    """

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        error = record.exc_info[1] if record.exc_info else None
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say("a library reports", library=record.name, text=record.getMessage(), exc_info=error)


def _readable(
    logger: object, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Show bytes as text, and keep what would break a line from doing so.

    Queue names and what job servers say are bytes, and come from strangers: a newline in one could
    forge a line of the log. Texts without such characters stay as they are, umlauts included.
    """
    for key, value in event.items():
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        if isinstance(text, str) and not text.isprintable():
            text = text.encode("unicode_escape").decode()
        event[key] = text
    return event
