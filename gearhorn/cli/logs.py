"""Log lines: one each, key=value or JSON, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys

import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logs(style: str, level: str) -> None:
    """Make every log line ``style`` (``logfmt`` or ``json``) from ``level`` up."""
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], bool_as_flag=False
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _readable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Writes lines to standard error. A full disk or a reader that went away costs log lines,
    never a message."""

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


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
