"""Running a command for each message: a host becomes a subscriber without code.

The command gets the payload on its standard input and what is known of the message in its
environment (``GEARHORN_TOPIC`` and so on). What it writes to standard output is the answer. Exit
code 0 acknowledges, 75 (EX_TEMPFAIL) is a failed attempt, 65 (EX_DATAERR) sets the message aside;
any other is a failed attempt, with the last line of standard error as its reason.

A handler that is a command may leave processes behind, which would hold the pipes open: so its
whole group is killed when it has ended, too. What is acknowledged has run to its end; what was
running when this program was killed comes again, since it was not acknowledged.

Rules: the command is a process group of its own, and is killed as a whole when its time is over. A
message is acknowledged only after its command has ended with 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection

from gearhorn.aio import Message, Park, Retry

FAILED, PARKED = 75, 65
REASON_BYTES = 500


class Command:
    """A command line that is run for each message, by ``/bin/sh``.

    Arguments:
        line: the command line.
        timeout_s: seconds that it has; None: without end.
        park_on: exit codes that set the message aside, besides 65.
    """

    def __init__(self, line: str, timeout_s: float | None, park_on: Collection[int]) -> None:
        self._line = line
        self._timeout_s = timeout_s
        self._park_on = {PARKED, *park_on}

    def __call__(self, message: Message) -> bytes:
        """Run the command; return what it wrote. Raises ``Retry`` or ``Park`` where it failed."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", self._line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(message),
            start_new_session=True,
        )
        try:
            answer, said = process.communicate(message.data, self._timeout_s)
        except subprocess.TimeoutExpired:
            raise Retry(f"no end after {self._timeout_s:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has left behind, too
            process.communicate()
        if process.returncode == 0:
            return answer
        reason = _reason(process.returncode, said)
        if process.returncode in self._park_on:
            raise Park(reason)
        raise Retry(reason)


def environment(message: Message) -> dict[str, str]:
    """Return the environment of a command: this process's, and what is known of the message."""
    found = dict(os.environ)
    found["GEARHORN_TOPIC"] = message.topic
    found["GEARHORN_CLIENT"] = message.client_id
    found["GEARHORN_ATTEMPT"] = str(message.attempt)
    found["GEARHORN_AT"] = f"{message.at:.6f}"
    found["GEARHORN_UNIQUE"] = message.unique or ""
    if message.position is not None:
        found["GEARHORN_SEQUENCE"] = str(message.position.sequence)
        found["GEARHORN_EPOCH"] = message.position.epoch
    for name, value in message.headers.items():
        variable = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
        found[f"GEARHORN_HEADER_{variable}"] = value
    return {name: value.replace("\0", "") for name, value in found.items()}


def _reason(code: int, said: bytes) -> str:
    """Return why a command failed: the last line that it wrote to standard error."""
    lines = [line for line in said[-4096:].decode(errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {lines[-1][:REASON_BYTES]}" if lines else how
