"""Loggers of what both the worker and applications run.

Theory of operation. Links, tasks and job servers are used by two kinds of programs. The worker logs
events with fields, one line each, through structlog. An application that imports the library has
logging of its own, and must neither import structlog nor find its configuration changed. So code
that both run asks for its logger here: it is structlog's once the worker has said so
(``write_with``), and the standard library's logger ``gearhorn`` otherwise.

Rules: the event is a constant text and the fields say the rest, as everywhere in gearhorn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_standard = logging.getLogger("gearhorn")


class Logger:
    """Logs events of one module; ``exc_info`` among the fields is an exception to show."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **fields: Any) -> None:
        """Log what helps to find a fault."""
        _write(self._name, "debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what is as it should be."""
        _write(self._name, "info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what may need an operator."""
        _write(self._name, "warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what needs an operator."""
        _write(self._name, "error", event, fields)

    def critical(self, event: str, **fields: Any) -> None:
        """Log a fault in gearhorn."""
        _write(self._name, "critical", event, fields)


class _Writer:
    """Where events go. ``make`` returns a logger; None: the standard library's is used."""

    def __init__(self) -> None:
        self.make: Callable[[str], Any] | None = None

    def use(self, make: Callable[[str], Any] | None) -> None:
        """Have events written by what ``make`` returns."""
        self.make = make


_writer = _Writer()  # one for the process


def write_with(make: Callable[[str], Any] | None) -> None:
    """Have events written by the loggers that ``make`` returns for a module's name; None: by the
    standard library's logger ``gearhorn``."""
    _writer.use(make)


def get_logger(name: str) -> Logger:
    """Return the logger of a module; ``name`` is its ``__name__``."""
    return Logger(name)


def _write(name: str, level: str, event: str, fields: dict[str, Any]) -> None:
    if _writer.make is not None:
        getattr(_writer.make(name), level)(event, **fields)
    elif _standard.isEnabledFor(_LEVELS[level]):
        error = fields.pop("exc_info", None)
        more = "".join(f" {key}={_text(value)}" for key, value in fields.items())
        _standard.log(_LEVELS[level], "%s%s", event, more, exc_info=error)


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
