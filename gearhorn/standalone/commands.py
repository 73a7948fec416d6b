"""The text commands of the embedded job server: a line in, lines out, as gearmand answers them.

gearhorn itself uses ``status``, ``show jobs``, ``create function``, ``maxqueue``, ``cancel job``
and ``drop function`` (``gearman/admin.py``, ``gearman/bury.py``); the others are for people and
tools, such as ``gearadmin``.

Rules: no sockets; a line comes as its tokens, which blanks part. gearmand 1.1.20 was asked command
by command: the words of a command are compared without case, names are not; surplus tokens are
ignored where a command takes none; each kind of mistake has its own error. Line ends differ as
gearmand's do: CR LF behind OK and ERR, LF behind the lines of a table and what ``version`` tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.metadata import version

from gearhorn.standalone.queues import Function, FunctionBusy, Job, Queues

MAX_TOKENS = 8  # gearmand closes a connection that sends more in a line
_OK = b"OK\r\n"
_END = b".\n"
_INCOMPLETE = (
    b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%s\r\n"
)


class Commands:
    """Answers commands about ``queues``.

    Arguments:
        queues: the books of the server, which commands read and change.
        workers: returns the lines of ``workers``: connections are not in the books.
        fail: tells the clients of a job that it has failed.
    """

    def __init__(
        self,
        queues: Queues,
        workers: Callable[[], Iterable[bytes]],
        fail: Callable[[Job], None],
    ) -> None:
        self._queues = queues
        self._workers = workers
        self._fail = fail
        self._table: dict[bytes, Callable[[list[bytes]], Iterable[bytes]]] = {
            b"status": lambda _: (*map(_status_line, queues.functions.values()), _END),
            b"prioritystatus": lambda _: (*map(_priority_line, queues.functions.values()), _END),
            b"workers": lambda _: (*workers(), _END),
            b"version": lambda _: (b"OK gear-%s\n" % version("gear").encode(),),
            b"getpid": lambda _: (b"OK %d\n" % os.getpid(),),
            b"verbose": lambda _: (b"OK ERROR\n",),
            b"show": self._show,
            b"maxqueue": self._maxqueue,
            b"create": self._create,
            b"drop": self._drop,
            b"cancel": self._cancel,
        }

    def answer(self, tokens: list[bytes]) -> Iterable[bytes]:
        """Return the lines that answer a command, given as its tokens; none at all is an unknown
        command. Never raises: a mistake is answered by a line that begins with ERR."""
        if tokens and (command := self._table.get(tokens[0].lower())):
            return command(tokens)
        return _unknown(tokens)

    def _show(self, tokens: list[bytes]) -> Iterable[bytes]:
        """List the jobs that wait or run, or their unique ids."""
        jobs = self._queues.jobs.values()
        match [token.lower() for token in tokens[1:]]:
            case []:
                return _unknown(tokens)
            case [b"jobs"]:
                return (*map(_job_line, jobs), _END)
            case [b"unique", b"jobs"]:
                return (*(job.unique + b"\n" for job in jobs), _END)
        return (b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n",)

    def _maxqueue(self, tokens: list[bytes]) -> Iterable[bytes]:
        """Set the limits of a function that exists: one number for all priorities, or those of
        high, normal and low; 0, and what is missing of several, is no limit.

        An unknown function is answered with OK too, as gearmand does, and nothing happens. Callers
        create the function first.
        """
        if len(tokens) < 2:
            return (_INCOMPLETE % tokens[0],)
        numbers = [int(token) if token.isdigit() else 0 for token in tokens[2:5]] or [0]
        if function := self._queues.functions.get(tokens[1]):
            high, normal, low = numbers * 3 if len(numbers) == 1 else (*numbers, 0)[:3]
            function.limit(high, normal, low)
        return (_OK,)

    def _create(self, tokens: list[bytes]) -> Iterable[bytes]:
        """Make a function; one that exists stays as it is."""
        if len(tokens) != 3 or tokens[1].lower() != b"function":
            return (_INCOMPLETE % tokens[0],)
        self._queues.create(tokens[2])
        return (_OK,)

    def _drop(self, tokens: list[bytes]) -> Iterable[bytes]:
        """Forget a function. Unlike gearmand's, this minds case and fails the jobs that wait."""
        if len(tokens) != 3 or tokens[1].lower() != b"function":
            return (_INCOMPLETE % tokens[0],)
        try:
            jobs = self._queues.drop(tokens[2])
        except KeyError:
            return (b"ERR function not found\r\n",)
        except FunctionBusy:
            return (b"ERR there are still connected workers or executing clients\r\n",)
        for job in jobs:
            self._fail(job)
        return (_OK,)

    def _cancel(self, tokens: list[bytes]) -> Iterable[bytes]:
        """Withdraw a job. Its clients are told that it failed, and told once more if it runs and
        its worker ends it: gearmand does the same, and gearhorn tells the two apart."""
        if len(tokens) < 3:
            return _unknown(tokens)
        if len(tokens) > 3 or tokens[1].lower() != b"job":
            return (b"ERR UNKNOWN_ERROR\r\n",)
        job = self._queues.jobs.get(tokens[2])
        if job is None or self._queues.cancel(tokens[2]) is None:
            return (b"ERR UNKNOWN_JOB\r\n",)
        self._fail(job)
        return (_OK,)


def _unknown(tokens: list[bytes]) -> Iterable[bytes]:
    return (b"ERR UNKNOWN_COMMAND Unknown+server+command%s\r\n" % b"".join(tokens[:1]),)


def _status_line(function: Function) -> bytes:
    """Name, jobs that wait or run, jobs that run, workers that serve it."""
    total, running, workers = function.total, function.running, len(function.workers)
    return b"%s\t%d\t%d\t%d\n" % (function.name, total, running, workers)


def _priority_line(function: Function) -> bytes:
    """Name, jobs that wait by priority from high to low, workers."""
    waiting = b"\t".join(b"%d" % len(queue) for queue in function.waiting)
    return b"%s\t%s\t%d\n" % (function.name, waiting, len(function.workers))


def _job_line(job: Job) -> bytes:
    """Handle, workers that died of it, whether it is only there to be forgotten, whether it is in
    the background. ``Admin.returned`` reads the first two."""
    return b"%s\t%d\t%d\t%d\n" % (job.handle, job.deaths, not job.wanted, job.background)
