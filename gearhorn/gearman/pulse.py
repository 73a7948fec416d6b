"""The pulse of a connection to a job server: whether the server lives, and does what it is asked.

Theory of operation. A frozen server still has a kernel that accepts connections and data, so only
an answer proves that it lives: it is asked for an ECHO when nothing was heard for ``INTERVAL_S``,
and at least every ``PROOF_S``. But the ECHO goes out behind whatever was written before it, and its
answer comes behind whatever the server had to say before it; over a slow line both may take long.
So what counts as life while the answer is out is that something *moves*:

* bytes that leave or arrive, ``MIN_BYTES`` of them in each ``TIMEOUT_S``. Fewer do not count, or
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

INTERVAL_S = 2.0  # of silence, then an ECHO is due
PROOF_S = 5.0  # since the last answered ECHO, then one is due however much is heard
TIMEOUT_S = 5.0  # in which something has to move while an ECHO is out
MIN_BYTES = 16 * 1024  # in both directions together that count as a move
LONGEST_S = 600.0  # for the answer to one ECHO, whatever moves meanwhile
ANSWER_S = 30.0  # of answered ECHOs while what was asked before them has no answer


class Signs(NamedTuple):
    """What is seen of a connection; all but ``owed`` are counted since it began."""

    heard: int  # bytes received
    left: int  # bytes that the other end's kernel has received
    answers: int  # to what was asked, ECHO aside
    owed: int  # questions without an answer now


class Pulse:
    """One connection's, which begins at ``at_s`` with an answered ECHO.

    ``Link`` drives it twice a second: ``answered`` if the ECHO came back since, then ``why_dead``,
    then ``is_due`` and, if it is, ``asked``. ``answered`` stands first, so that an answer that is
    here already is never taken for one that is late. One ECHO is out at a time: gearmand's answers
    bear no number that would tell two apart.
    """

    def __init__(self, at_s: float) -> None:
        self._heard = 0
        self._heard_s = self._proved_s = at_s
        self._asked_s: float | None = None
        self._asked = Signs(0, 0, 0, 0)  # what was seen when the ECHO was asked for
        self._moved = Signs(0, 0, 0, 0)  # when something last moved
        self._moved_s = at_s
        self._ignored_s: float | None = None  # what was asked is passed over since

    def is_due(self, at_s: float, heard: int) -> bool:
        """Return whether to ask for an ECHO now, ``heard`` bytes after the beginning.

        What is heard puts the next ECHO off, but not beyond ``PROOF_S``: bytes that arrive do not
        prove that the server still reads what it is sent.
        """
        if heard != self._heard:
            self._heard, self._heard_s = heard, at_s
        if self._asked_s is not None:
            return False
        return at_s - self._heard_s >= INTERVAL_S or at_s - self._proved_s >= PROOF_S

    def asked(self, at_s: float, signs: Signs) -> None:
        """The server was asked for an ECHO. Its ``signs`` are what later ones are compared with."""
        self._asked_s = self._moved_s = at_s
        self._asked = self._moved = signs

    def answered(self, at_s: float, signs: Signs) -> None:
        """The server answered the ECHO.

        Requests that were open when the ECHO was written come before it, so one of them should have
        been answered by now. If none was, the wait that ``ANSWER_S`` bounds began when the ECHO was
        written, and goes on over further ECHOs until an answer comes.
        """
        if self._asked_s is None:
            return  # a server that sends ECHO_RES unasked proves nothing
        if not self._asked.owed or signs.answers != self._asked.answers:
            self._ignored_s = None
        elif self._ignored_s is None:
            self._ignored_s = self._asked_s
        self._proved_s = at_s
        self._asked_s = None

    def why_dead(self, at_s: float, signs: Signs) -> str:
        """Return why the connection has to be given up, in words for the log; "" if it lives.

        Answers come first, since they need no ECHO to be out. The rest is about the ECHO that is
        out: nothing has moved for too long, or much has moved and the answer is still not here.
        """
        if self._ignored_s is not None:
            if signs.answers != self._asked.answers:
                self._ignored_s = None
            elif at_s - self._ignored_s > ANSWER_S:
                return f"no answer but to ECHO in {ANSWER_S:g} s"
        if self._asked_s is None:
            return ""
        bytes_moved = signs.heard - self._moved.heard + signs.left - self._moved.left
        if bytes_moved >= MIN_BYTES or signs.answers != self._moved.answers:
            self._moved, self._moved_s = signs, at_s
        if at_s - self._moved_s > TIMEOUT_S:
            return f"no answer to ECHO in {TIMEOUT_S:g} s"
        if at_s - self._asked_s > LONGEST_S:
            return f"no answer to ECHO in {LONGEST_S:g} s"
        return ""
