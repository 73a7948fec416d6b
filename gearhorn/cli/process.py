"""Signals: how a worker is asked to end, before it serves and while it does.

Theory of operation. A worker can be told to end at any time, also while it still imports its
modules or starts servers of its own; and what was begun must be taken away then. There are two
ways:

* Until the event loop runs, ``heed_signals`` has a signal raise ``SystemExit`` where the program
  is, so that every ``with`` and ``finally`` on the way does its part.
* While it serves, ``Stopping`` has the loop call back: the first signal sets an event that the
  ``Broker`` waits for, and the worker finishes what it has in hand. A second one ends it at once.

Between the two nothing may be lost, so a signal that came early is also written down.

Rules: called on the main thread, the only one that Python gives signals to.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog

_ENDINGS = (signal.SIGTERM, signal.SIGINT)
_came: list[int] = []  # signals to end that came before the worker serves

log = structlog.get_logger(__name__)


def heed_signals() -> None:
    """Until the worker serves, a signal ends the process as an exception does, so that what was
    begun is taken away; SIGHUP, which a terminal sends that is closed, never does.

    Python drops an exception that is raised in a destructor or in the callback of a weak reference
    (imports have many), so the signal is written down too: ``Stopping`` finds it there. The exit
    code is 0, because to be asked to end is no failure.
    """

    def end(number: int, _frame: object) -> None:
        _came.append(number)
        sys.exit(0)

    for number in _ENDINGS:
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Stopping:
    """What signals do to a worker that serves: the first one asks it to stop, a second one stops
    it at once. SIGHUP has nothing to reload and does no harm.

    To stop takes up to 15 s, in which jobs in hand are finished. A second signal is for those who
    cannot wait: the job servers then give what is in hand to other members, as after a crash.

    Attributes:
        asked: set once the worker is to stop.
        at_once: the second signal's number; None: there was none. The loop was stopped then, and
            ``run_until_complete`` raises ``RuntimeError``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        self.at_once: int | None = None
        self._loop = loop
        for number in _ENDINGS:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        # Behind the handlers: a signal from here on sets ``asked`` itself.
        if _came:
            self.asked.set()

    def _end(self, number: int) -> None:
        if not self.asked.is_set():
            self.asked.set()
            return
        log.warning("stopping at once; other members will be given what is in hand")
        self.at_once = number
        self._loop.stop()

    def _hang_up(self) -> None:
        log.info("SIGHUP: there is nothing to reload")
