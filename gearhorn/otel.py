"""OpenTelemetry: spans and metrics of publishers and subscribers.

Theory of operation. A publish is a span, and its context travels with the message, in its headers.
A handler's run is a span that *links* to it: one message has many receivers, and a durable one may
be processed days later, so that a receiver's span as a child would make traces that are never known
to be complete. ``parent=True`` makes it the child all the same. The worker makes no
spans: between the two, a trace shows the time that a message took, and not what it passed.

Names and attributes are those of the *Semantic Conventions for Messaging*, version 1.44.0, as they
were in August 2026: in development, not stable. They name the operations ``publish``, ``deliver``
and ``ask`` (of type ``send``) and ``process``.

Rules: needs ``opentelemetry-api`` alone (extra ``otel``), and does nothing where no SDK is set up.
Without ``instrument`` nothing of this is imported. What cannot be traced is published all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

import gearhorn
from gearhorn import aio
from gearhorn.client import sync
from gearhorn.client.message import Message
from gearhorn.client.observers import Exchange, Operation
from gearhorn.client.payloads import Request
from gearhorn.client.results import Answers, Position, Published, Receipt
from gearhorn.errors import BadRequest, GearhornError, NotConnected
from gearhorn.messages.headers import checked_headers

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM = "gearhorn"
# In seconds, as the conventions have them.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# An ask waits for what its receivers return: for tracing tools it is a call.
_KINDS = {"publish": SpanKind.PRODUCER, "deliver": SpanKind.PRODUCER, "ask": SpanKind.CLIENT}

Attributes = dict[str, str | int]
Instrumented = TypeVar(
    "Instrumented", sync.Publisher, aio.Publisher, sync.Subscriber, aio.Subscriber
)


def instrument(
    instrumented: Instrumented,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    parent: bool = False,
) -> Instrumented:
    """Have a publisher or a subscriber make spans and metrics; return it.

    Once for each object. A publisher's spans are those of ``publish``, ``deliver``, ``ask`` and of
    each message of ``publish_many``; a subscriber's are the runs of its handlers. Messages that
    ``Subscriber.messages`` yields have none: only the program knows when it processes them.

    Arguments:
        instrumented: of either face.
        tracer_provider: makes the spans; None: the global one.
        meter_provider: makes the metrics; None: the global one.
        parent: the span of a handler's run is the child of the publisher's, besides linking to it.

    Raises ``TypeError`` for what is neither.
    """
    tracer = trace.get_tracer("gearhorn", gearhorn.__version__, tracer_provider, SCHEMA)
    meter = metrics.get_meter("gearhorn", gearhorn.__version__, meter_provider, SCHEMA)
    if isinstance(instrumented, sync.Publisher | aio.Publisher):
        instrumented.observe(Publishing(tracer, meter))
    elif isinstance(instrumented, sync.Subscriber | aio.Subscriber):
        instrumented.observe(Processing(tracer, meter, parent))
    else:
        raise TypeError(f"expected a publisher or a subscriber, got {instrumented!r}")
    return instrumented


class Publishing:
    """Sees requests; a ``RequestObserver``.

    Metrics have no topic: a program may publish to any number of them.
    """

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )

    def requested(self, operation: Operation, request: Request) -> Exchange:
        """Begin the span of a request, and put its context into the headers.

        A context that the caller has put there stays: the message was made in it, so the span
        links to it, and is that of a mere call.
        """
        common: Attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": operation,
            "messaging.operation.type": "send",
        }
        attributes = common | {"messaging.destination.name": request.topic}
        if isinstance(request.unique, str):
            attributes["messaging.message.id"] = request.unique
        given = request.headers if isinstance(request.headers, Mapping) else {}
        own = _context_of(given)
        span = self._tracer.start_span(
            f"{operation} {request.topic}",
            kind=_KINDS[operation] if own is None else SpanKind.CLIENT,
            attributes=attributes,
            links=() if own is None else _links_to(own),
        )
        if own is None:
            request = request.with_headers(_with_context(given, span))
        return _Sending(self, span, common, request)

    def ended(self, seconds: float, error: BaseException | None, common: Attributes) -> None:
        """A request has ended: count it."""
        attributes = _with_error(common, error)
        self._duration.record(seconds, attributes)
        if not isinstance(error, NotConnected):  # then nothing was sent
            self._sent.add(1, attributes)


class _Sending:
    """One request with its span; an ``Exchange``."""

    reply: bytes | GearhornError | None = None

    def __init__(
        self, publishing: Publishing, span: Span, common: Attributes, request: Request
    ) -> None:
        self.request = request
        self._publishing = publishing
        self._span = span
        self._common = common
        self._begun_s = time.perf_counter()

    def ended(self, outcome: object) -> None:
        """End the span with what came of it. A caller that leaves is no failure."""
        error = outcome if isinstance(outcome, BaseException) else None
        if isinstance(error, asyncio.CancelledError):
            error = None
        if error is not None:
            _fail(self._span, error)
        receipt = outcome.receipt if isinstance(outcome, Answers) else outcome
        if isinstance(receipt, Published | Receipt):
            self._span.set_attribute("messaging.gearhorn.copies", receipt.copies)
            if receipt.position is not None and not isinstance(self.request.unique, str):
                self._span.set_attribute("messaging.message.id", _id_of(receipt.position))
        self._publishing.ended(time.perf_counter() - self._begun_s, error, self._common)
        self._span.end()


class Processing:
    """Sees handlers run; a ``HandlerObserver``.

    Metrics have the topic as the subscription has it, which may be a pattern: there are as many as
    the program has handlers.
    """

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter, parent: bool) -> None:
        self._tracer = tracer
        self._parent = parent
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )

    @contextmanager
    def handling(self, message: Message, subscribed: str) -> Iterator[None]:
        """Have a handler run within a span, whose context is the current one meanwhile.

        The span begins a trace of its own, or is the child of the publisher's. What is current
        where the handler is called counts for nothing: that may be what was current when the
        program started its subscriber. Baggage comes with the message either way.
        """
        sent = propagate.extract(message.headers, Context())
        common: Attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.subscription.name": message.client_id,
        }
        is_pattern = subscribed != message.topic
        where = "messaging.destination.template" if is_pattern else "messaging.destination.name"
        common[where] = subscribed
        span = self._tracer.start_span(
            f"process {subscribed}",
            context=sent if self._parent else trace.set_span_in_context(trace.INVALID_SPAN, sent),
            kind=SpanKind.CONSUMER,
            attributes=common | _of_message(message),
            links=_links_to(sent),
        )
        self._consumed.add(1, common)
        token = context.attach(trace.set_span_in_context(span, sent))
        begun_s, error = time.perf_counter(), None
        try:
            yield
        except BaseException as raised:
            error = raised
            _fail(span, raised)
            raise
        finally:
            context.detach(token)
            self._duration.record(time.perf_counter() - begun_s, _with_error(common, error))
            span.end()


def _of_message(message: Message) -> Attributes:
    """Return what a span says of its message besides the subscription."""
    found: Attributes = {"messaging.destination.name": message.topic}
    if message.unique is not None:
        found["messaging.message.id"] = message.unique
    elif message.position is not None:
        found["messaging.message.id"] = _id_of(message.position)
    if message.position is not None:
        found["messaging.gearhorn.attempt"] = message.attempt
    return found


def _id_of(position: Position) -> str:
    """Return what names a message of a log."""
    return f"{position.epoch}:{position.sequence}"


def _context_of(headers: Mapping[str, str]) -> Context | None:
    """Return the context that a caller has put into the headers, None where there is none."""
    if not headers:
        return None
    fields = propagate.get_global_textmap().fields
    named = {name.lower(): value for name, value in headers.items()}
    return propagate.extract(named, Context()) if fields & named.keys() else None


def _links_to(sent: Context) -> list[Link]:
    """Return a link to the span in which a message was made, if its headers name one."""
    made = trace.get_current_span(sent).get_span_context()
    return [Link(made)] if made.is_valid else []


def _with_context(given: Mapping[str, str], span: Span) -> Mapping[str, str]:
    """Return headers with the context of a span; without it where there is no room left for it,
    since a message is to be published whether it is traced or not."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    headers = {**given, **carrier}
    try:
        checked_headers(headers)
    except BadRequest:
        return given
    return headers


def _fail(span: Span, error: BaseException) -> None:
    """Say on a span what it failed with."""
    span.set_attribute("error.type", _type_of(error))
    span.set_status(StatusCode.ERROR, str(error) or None)


def _with_error(common: Attributes, error: BaseException | None) -> Attributes:
    return common if error is None else common | {"error.type": _type_of(error)}


def _type_of(error: BaseException) -> str:
    """Return the full name of an error's class."""
    module, name = type(error).__module__, type(error).__qualname__
    return name if module == "builtins" else f"{module}.{name}"
