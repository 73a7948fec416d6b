"""The text commands of the embedded job server: a line in, lines out, as gearmand answers them.

Rules: no sockets. gearmand 1.1.20 was asked command by command: words of a command are compared
without case, names are not; surplus words are ignored where a command takes none; each kind of
mistake has its own error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.metadata import version

from gearhorn.standalone.queues import Function, FunctionBusy, Job, Queues

MAX_WORDS = 8  # gearmand closes a connection that sends more in a line
_OK = b"OK\r\n"
_END = b".\n"
_INCOMPLETE = (
    b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%s\r\n"
)


class Commands:
    """Answers commands about ``queues``.

    Arguments:
        workers: returns the lines of ``workers``.
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

    def answer(self, words: list[bytes]) -> Iterable[bytes]:
        """Return what answers a line, given as its words."""
        if words and (command := self._table.get(words[0].lower())):
            return command(words)
        return _unknown(words)

    def _show(self, words: list[bytes]) -> Iterable[bytes]:
        jobs = self._queues.jobs.values()
        match [word.lower() for word in words[1:]]:
            case []:
                return _unknown(words)
            case [b"jobs"]:
                return (*map(_job_line, jobs), _END)
            case [b"unique", b"jobs"]:
                return (*(job.unique + b"\n" for job in jobs), _END)
        return (b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n",)

    def _maxqueue(self, words: list[bytes]) -> Iterable[bytes]:
        """Set the limits of a function that exists: one number for all priorities, or those of
        high, normal and low; 0, and what is missing of several, is no limit."""
        if len(words) < 2:
            return (_INCOMPLETE % words[0],)
        numbers = [int(word) if word.isdigit() else 0 for word in words[2:5]] or [0]
        if function := self._queues.functions.get(words[1]):
            high, normal, low = numbers * 3 if len(numbers) == 1 else (*numbers, 0)[:3]
            function.limit(high, normal, low)
        return (_OK,)

    def _create(self, words: list[bytes]) -> Iterable[bytes]:
        if len(words) != 3 or words[1].lower() != b"function":
            return (_INCOMPLETE % words[0],)
        self._queues.create(words[2])
        return (_OK,)

    def _drop(self, words: list[bytes]) -> Iterable[bytes]:
        if len(words) != 3 or words[1].lower() != b"function":
            return (_INCOMPLETE % words[0],)
        try:
            jobs = self._queues.drop(words[2])
        except KeyError:
            return (b"ERR function not found\r\n",)
        except FunctionBusy:
            return (b"ERR there are still connected workers or executing clients\r\n",)
        for job in jobs:
            self._fail(job)
        return (_OK,)

    def _cancel(self, words: list[bytes]) -> Iterable[bytes]:
        if len(words) < 3:
            return _unknown(words)
        if len(words) > 3 or words[1].lower() != b"job":
            return (b"ERR UNKNOWN_ERROR\r\n",)
        job = self._queues.jobs.get(words[2])
        if job is None or self._queues.cancel(words[2]) is None:
            return (b"ERR UNKNOWN_JOB\r\n",)
        self._fail(job)
        return (_OK,)


def _unknown(words: list[bytes]) -> Iterable[bytes]:
    return (b"ERR UNKNOWN_COMMAND Unknown+server+command%s\r\n" % b"".join(words[:1]),)


def _status_line(function: Function) -> bytes:
    total, running, workers = function.total, function.running, len(function.workers)
    return b"%s\t%d\t%d\t%d\n" % (function.name, total, running, workers)


def _priority_line(function: Function) -> bytes:
    waiting = b"\t".join(b"%d" % len(queue) for queue in function.waiting)
    return b"%s\t%s\t%d\n" % (function.name, waiting, len(function.workers))


def _job_line(job: Job) -> bytes:
    return b"%s\t%d\t%d\t%d\n" % (job.handle, job.deaths, not job.wanted, job.background)
