"""The pulse of a connection to a job server: whether the server lives, and does what it is asked.

Theory of operation. A frozen server still has a kernel that accepts connections and data, so only
an answer proves that it lives: it is asked for an ECHO when nothing was heard for ``INTERVAL_S``,
and at least every ``PROOF_S``. But the ECHO goes out behind whatever was written before it, and its
answer comes behind whatever the server had to say before it; over a slow line both may take long.
So what counts as life while the answer is out is that something *moves*:

* bytes that leave or arrive, ``LEAST_BYTES`` of them in each ``TIMEOUT_S``. Fewer do not count, or
  a server could hold a connection with a byte now and then inside of a packet that never ends;
* answers to what was asked, of which there are no more than questions.

Both are bounded by what is outstanding, but a hostile server may say more than it was asked for; so
no answer to an ECHO may take longer than ``LONGEST_S``.

A server answers the requests of one connection in order. If it answers an ECHO, and goes on to
answer nothing of what was asked before it for ``ANSWER_S``, it does not keep to the protocol; what
was asked would wait without end.

Rules: pure; times in seconds of one monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

INTERVAL_S = 2.0
PROOF_S = 5.0
TIMEOUT_S = 5.0
LEAST_BYTES = 16 * 1024
LONGEST_S = 600.0
ANSWER_S = 30.0


class Signs(NamedTuple):
    """What is seen of a connection; all but ``owed`` are counted since it began."""

    heard: int  # bytes received
    left: int  # bytes that the other end's kernel has received
    answers: int  # to what was asked, ECHO aside
    owed: int  # questions without an answer now


class Pulse:
    """One connection's, which begins at ``at_s`` with an answered ECHO."""

    def __init__(self, at_s: float) -> None:
        self._heard = 0
        self._heard_s = self._proved_s = at_s
        self._asked_s: float | None = None
        self._asked = Signs(0, 0, 0, 0)  # what was seen when the ECHO was asked for
        self._moved = Signs(0, 0, 0, 0)  # when something last moved
        self._moved_s = at_s
        self._ignored_s: float | None = None  # what was asked is passed over since

    def is_due(self, at_s: float, heard: int) -> bool:
        """Return whether to ask for an ECHO now."""
        if heard != self._heard:
            self._heard, self._heard_s = heard, at_s
        if self._asked_s is not None:
            return False
        return at_s - self._heard_s >= INTERVAL_S or at_s - self._proved_s >= PROOF_S

    def asked(self, at_s: float, signs: Signs) -> None:
        """The server was asked for an ECHO."""
        self._asked_s = self._moved_s = at_s
        self._asked = self._moved = signs

    def answered(self, at_s: float, signs: Signs) -> None:
        """The server answered the ECHO."""
        if self._asked_s is None:
            return
        if not self._asked.owed or signs.answers != self._asked.answers:
            self._ignored_s = None
        elif self._ignored_s is None:
            self._ignored_s = self._asked_s
        self._proved_s = at_s
        self._asked_s = None

    def why_dead(self, at_s: float, signs: Signs) -> str:
        """Return why the connection has to be given up, or nothing."""
        if self._ignored_s is not None:
            if signs.answers != self._asked.answers:
                self._ignored_s = None
            elif at_s - self._ignored_s > ANSWER_S:
                return f"no answer but to ECHO in {ANSWER_S:g} s"
        if self._asked_s is None:
            return ""
        bytes_moved = signs.heard - self._moved.heard + signs.left - self._moved.left
        if bytes_moved >= LEAST_BYTES or signs.answers != self._moved.answers:
            self._moved, self._moved_s = signs, at_s
        if at_s - self._moved_s > TIMEOUT_S:
            return f"no answer to ECHO in {TIMEOUT_S:g} s"
        if at_s - self._asked_s > LONGEST_S:
            return f"no answer to ECHO in {LONGEST_S:g} s"
        return ""
