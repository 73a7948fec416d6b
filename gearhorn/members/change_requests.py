"""Requests for changes: from a job to what is written, and its one answer.

Theory of operation. A change outlives its caller. It is decoded, waits in a queue, is written,
perhaps again, is told to the peers, and its queue drained; and in each of these steps the caller
may be refused while the change itself goes on. So a ``Request`` holds the two apart: the change,
with an id under which the store remembers what became of it, and the job, which is let go with the
first answer. The steps need not know whether an answer was given before theirs.

Rules: no store and no sockets. A request is answered once, whatever comes after; without a job it
is this member's own, and there is nothing to answer.
"""

from __future__ import annotations

import secrets

import structlog

from gearhorn.errors import RequestError, Reserved
from gearhorn.gearman.drain import Drained
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Retained, decode_retain, encode_given_retention
from gearhorn.messages.subscriptions import (
    GivenDurable,
    decode_subscribe,
    decode_unsubscribe,
    encode_given_options,
    encode_start,
    encode_subscribed,
    encode_unsubscribed,
)
from gearhorn.names import (
    GOSSIP,
    check_pattern,
    check_publish,
    check_subscription,
    list_name,
    shown_name,
)
from gearhorn.requests import check_length
from gearhorn.store.subscriptions import Applied, Change

log = structlog.get_logger(__name__)


class Request:
    """One change and who asked for it.

    Arguments:
        job: who waits for an answer; None for a change that this member makes by itself.
        change: what is to be written. It gets a fresh id, by which the store remembers what became
            of it, so that it can be written again when an answer is lost.
    """

    def __init__(self, job: Job | None, change: Change) -> None:
        self.change = change._replace(request=secrets.token_hex(8))
        self._job = job
        self._until_s: float | None = None

    @property
    def is_answered(self) -> bool:
        """Whether no caller waits for an answer any more."""
        return self._job is None

    @property
    def is_removal(self) -> bool:
        """Whether it ends a subscription."""
        return self.change.kind in ("unsubscribe", "expire", "overflow")

    def complete(self, outcome: Applied, drained: Drained | None = None) -> None:
        """Answer it with what became of the change; without effect where it is answered already.

        Arguments:
            outcome: what the store did; it has a version.
            drained: how many jobs were discarded, and the servers that were not reached; None
                where nothing was to be drained.

        A subscription that this member ended by itself has no caller to be told; the log is.
        """
        change = self.change
        job, self._job = self._job, None
        if job is None:
            if outcome.existed and self.is_removal:
                log.info(
                    "subscription ended", topic=shown_name(change.topic), client=change.client_id
                )
        elif change.kind == "subscribe":
            log.debug("subscribed", topic=shown_name(change.topic), client=change.client_id)
            job.complete(encode_subscribed(change.queue, outcome.version, outcome.parked))
        elif change.kind == "retain":
            log.debug("retained", topic=shown_name(change.topic))
            job.complete(encode(Retained(outcome.version)))
        else:
            count = None if drained is None else drained.jobs
            left = () if drained is None else [str(server) for server in drained.left]
            log.debug(
                "unsubscribed",
                topic=shown_name(change.topic),
                client=change.client_id,
                drained=count,
            )
            job.complete(encode_unsubscribed(outcome.version, count, left, outcome.parked))

    def drain_as(self, member: str) -> None:
        """Have the queue drained by ``member``, this member's present id, if it is to be drained.

        The id may be another than when the request came. A mark in the store that bears a former
        one would go when the record of the former one does, in the middle of the drain.
        """
        if self.change.drainer not in ("", member):
            self.change = self.change._replace(drainer=member)

    def fail(self, error: RequestError) -> None:
        """Refuse it; without effect where it is answered already."""
        job, self._job = self._job, None
        if job is not None:
            job.fail(str(error))

    def hold(self, until_s: float) -> float:
        """Let the worker take other jobs while this one waits; return until when it may wait.

        Arguments:
            until_s: when it ought to be refused, in ``timing.now_s``. What the first call was told
                holds, so that a request which is held off again and again does not wait longer.
        """
        if self._until_s is None:
            self._until_s = until_s
        if self._job is not None:
            self._job.wait()
        return self._until_s


def subscription(job: Job, served: frozenset[bytes]) -> Change:
    """Return the change that a subscribe job asks for ("subscribe_fanout" in docs/protocol.rst).

    Arguments:
        job: whose arguments are the request, in JSON.
        served: gearhorn's own functions, which no queue may be called like.

    Options that were not given stay open, so that the store keeps what a former subscription of the
    pair had. Raises ``RequestError``: of what the request says, or ``Reserved`` for a log of
    ``__gossip``, whose messages come from members and are not published.
    """
    check_length(job)
    request = decode_subscribe(job.arguments)
    queue = check_subscription(request.topic, request.client_id, served)
    if request.pattern:
        check_pattern(request.topic)
    elif request.is_durable and request.topic == GOSSIP:
        raise Reserved(f"topic {GOSSIP} has no log")
    given = request.durable if isinstance(request.durable, GivenDurable) else GivenDurable()
    return Change(
        "subscribe",
        list_name(request.topic, request.pattern),
        request.client_id,
        queue,
        encode_given_options(request),
        start=encode_start(given) if request.is_durable else b"",
        is_pause=request.pauses,
    )


def ending(job: Job, served: frozenset[bytes], member: str) -> Change:
    """Return the change that an unsubscribe job asks for.

    Arguments:
        job: whose arguments are the request, in JSON ("unsubscribe_fanout" in docs/protocol.rst).
        served: as for ``subscription``.
        member: the id of this member, which empties the queue if it is to be drained.

    Raises ``RequestError`` for what the request says.
    """
    check_length(job)
    request = decode_unsubscribe(job.arguments)
    queue = check_subscription(request.topic, request.client_id, served)
    if request.pattern:
        check_pattern(request.topic)
    name = list_name(request.topic, request.pattern)
    drainer = member if request.drain else ""
    return Change("unsubscribe", name, request.client_id, queue, drainer=drainer)


def retention(job: Job) -> Change:
    """Return the change that a retain job asks for ("retain_fanout" in docs/protocol.rst).

    Raises ``RequestError`` for what the request says.
    """
    check_length(job)
    request = decode_retain(job.arguments)
    check_publish(request.topic)
    return Change("retain", request.topic, "", b"", encode_given_retention(request))
