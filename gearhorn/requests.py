"""Requests: the shell around every handler that answers later than it is called.

A job that is never finished makes its client wait without end, and stays in the member's hand. A
handler that answers at once is in the shell of ``gearman.worker``. One that waits for the store,
for peers or for receivers has left that when something goes wrong; it is put into one of these
instead: ``answer`` for a request with one reply, ``attempt`` for a step of a longer story,
``answering`` for the rest.

Rules: runs on the event loop. Whatever happens in a handler, its job is finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from gearhorn.errors import InternalError, RequestError, StoreError, TooLarge, Unavailable
from gearhorn.gearman.worker import Job
from gearhorn.tasks import on_crash

REQUEST_BYTES = 256 * 1024  # of all requests but fanout: names and a few options

log = structlog.get_logger(__name__)


def attempt(job: Job, call: Callable[[], None]) -> None:
    """Call something that goes on with a job, from a timer or for a job of many; never raises.

    Above it there is only the event loop, which would log and forget, or a loop over other jobs,
    which must go on. A job that is finished already is not changed by ``fail``.
    """
    try:
        call()
    except Exception as error:
        log.critical("a request failed", function=job.function, exc_info=error)
        job.fail(str(InternalError()))


def answering(job: Job) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a crash finishes the job with ``internal error``, and goes on.

    Where the task itself is cancelled the job is left unfinished: the member stops, and the job
    server gives it to another one (``tasks.on_crash``).
    """
    return on_crash(partial(job.fail, str(InternalError())))


def check_length(job: Job) -> None:
    """Raise ``TooLarge`` for a request that was cut at ``REQUEST_BYTES``."""
    if job.oversized:
        raise TooLarge(f"the request is longer than {REQUEST_BYTES} bytes")


async def answer(job: Job, reply: Callable[[Job], Awaitable[bytes]]) -> None:
    """Finish a job with what ``reply`` returns, or with why there is no reply (docs/protocol.rst,
    "Requests, replies, errors").

    What is neither a ``RequestError`` nor a ``StoreError`` is a fault: the caller is told
    ``internal error``, and the exception goes on, to be logged.
    """
    with answering(job):
        try:
            check_length(job)
            job.complete(await reply(job))
        except StoreError as error:
            job.fail(str(Unavailable(f"the store: {error}")))
        except RequestError as error:
            job.fail(str(error))
