"""Spans and metrics of publishers and subscribers, as the conventions for messaging name them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.proxy import on_loop

import gearhorn
from gearhorn import aio, testing
from gearhorn.otel import BUCKETS, Instrumented, instrument

NOWHERE = "nowhere.invalid"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENDING = {"messaging.system": "gearhorn", "messaging.operation.type": "send"}
PROCESSING = {
    "messaging.system": "gearhorn",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.subscription.name": "web1",
}


class Telemetry:
    """Keeps spans and metrics in memory."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("test")

    def instrument(self, instrumented: Instrumented, parent: bool = False) -> Instrumented:
        return instrument(instrumented, self.tracers, self.meters, parent)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        assert scope.schema_url.endswith("/1.44.0")
        return {metric.name: metric for metric in scope.metrics}

    def points(self, name: str) -> list[tuple[int, Mapping[str, Any]]]:
        """How many messages or operations there were with which attributes."""
        points = self.metrics()[name].data.data_points
        return [
            (getattr(point, "count", None) or point.value, dict(point.attributes))
            for point in points
        ]


def traceparent_of(span: ReadableSpan) -> str:
    made = span.context
    assert made is not None
    return f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags:02x}"


def recorded(telemetry: Telemetry) -> tuple[gearhorn.Publisher, testing.Recording]:
    publisher = telemetry.instrument(gearhorn.Publisher(NOWHERE))
    return publisher, testing.record(publisher)


def test_a_publish_is_a_span_whose_context_travels() -> None:
    telemetry = Telemetry()
    publisher, published = recorded(telemetry)
    with telemetry.tracer.start_as_current_span("request") as request:
        publisher.publish("orders", "x", unique="order-7", headers={"Kind": "order"})
    sending, _ = telemetry.spans
    assert (sending.name, sending.kind) == ("publish orders", SpanKind.PRODUCER)
    assert sending.parent == request.get_span_context(), "it is the caller's child, not the loop's"
    assert sending.attributes == SENDING | {
        "messaging.operation.name": "publish",
        "messaging.destination.name": "orders",
        "messaging.message.id": "order-7",
        "messaging.gearhorn.copies": 1,
    }
    assert sending.status.status_code is StatusCode.UNSET
    assert sending.links == ()
    assert published[0].headers == {"kind": "order", "traceparent": traceparent_of(sending)}


def test_each_way_to_publish_has_its_kind() -> None:
    telemetry = Telemetry()
    publisher, published = recorded(telemetry)
    publisher.deliver("t")
    publisher.ask("t")
    list(publisher.ask_iter("t"))
    publisher.publish_many([("t", "1"), ("t", "2")])
    assert [(span.name, span.kind) for span in telemetry.spans] == [
        ("deliver t", SpanKind.PRODUCER),
        ("ask t", SpanKind.CLIENT),
        ("ask t", SpanKind.CLIENT),
        ("publish t", SpanKind.PRODUCER),
        ("publish t", SpanKind.PRODUCER),
    ]
    for sent, span in zip(published, telemetry.spans, strict=True):
        assert sent.headers["traceparent"] == traceparent_of(span)


def test_a_failure_sets_status_and_type_and_what_was_not_sent_does_not_count() -> None:
    telemetry = Telemetry()
    publisher, published = recorded(telemetry)
    for error in (gearhorn.Busy("no"), gearhorn.NotConnected("no server"), gearhorn.Unsure("")):
        published.refuse_next(error)
        with pytest.raises(gearhorn.GearhornError):
            publisher.publish("t")
    with pytest.raises(gearhorn.BadName):
        publisher.publish_many([("a b", "x")]).raise_any()
    publisher.publish("t")
    said = [
        (span.status.description, dict(span.attributes or {}).get("error.type"))
        for span in telemetry.spans
    ]
    assert said == [
        ("busy: no", "gearhorn.errors.Busy"),
        ("no server", "gearhorn.errors.NotConnected"),
        (None, "gearhorn.errors.Unsure"),
        (said[3][0], "gearhorn.errors.BadName"),
        (None, None),
    ]
    codes = [span.status.status_code for span in telemetry.spans]
    assert codes == [StatusCode.ERROR] * 4 + [StatusCode.UNSET]
    plain = SENDING | {"messaging.operation.name": "publish"}
    types = [f"gearhorn.errors.{name}" for name in ("Busy", "NotConnected", "Unsure", "BadName")]
    failed = [(1, plain | {"error.type": name}) for name in types]
    assert telemetry.points("messaging.client.operation.duration") == [*failed, (1, plain)]
    del failed[1]
    assert telemetry.points("messaging.client.sent.messages") == [*failed, (1, plain)]


def test_a_context_that_the_caller_gives_stays() -> None:
    telemetry = Telemetry()
    publisher, published = recorded(telemetry)
    publisher.publish("t", headers={"Traceparent": PARENT})
    [sending] = telemetry.spans
    assert published[0].headers == {"traceparent": PARENT}
    assert sending.kind is SpanKind.CLIENT
    [link] = sending.links
    assert f"{link.context.span_id:016x}" == "b7ad6b7169203331"


def test_where_headers_are_full_the_message_goes_without_a_context() -> None:
    telemetry = Telemetry()
    publisher, published = recorded(telemetry)
    headers = {f"h{number}": "x" for number in range(64)}
    publisher.publish("t", headers=headers)
    assert published[0].headers == headers
    assert len(telemetry.spans) == 1


def test_a_run_of_a_handler_is_a_span_of_its_own_trace_that_links_to_the_publish() -> None:
    telemetry = Telemetry()
    current: list[trace.Span] = []
    subscriber = gearhorn.Subscriber("web1", NOWHERE)

    @subscriber.on("t", durable=True)
    def handle(message: gearhorn.Message) -> None:
        current.append(trace.get_current_span())
        assert baggage.get_baggage("tenant") == "blue"

    telemetry.instrument(subscriber)
    with telemetry.tracer.start_as_current_span("ambient"):
        headers = {"traceparent": PARENT, "baggage": "tenant=blue"}
        assert testing.call(subscriber, "t", attempt=3, headers=headers).acknowledged
    processing, _ = telemetry.spans
    assert (processing.name, processing.kind) == ("process t", SpanKind.CONSUMER)
    assert processing.parent is None
    assert processing.context is not None
    [link] = processing.links
    assert traceparent_of(processing) != PARENT
    assert f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" == PARENT
    assert processing.context == current[0].get_span_context()
    assert processing.attributes == PROCESSING | {
        "messaging.destination.name": "t",
        "messaging.message.id": f"{'0' * 16}:1",
        "messaging.gearhorn.attempt": 3,
    }
    assert not trace.get_current_span().get_span_context().is_valid
    assert context.get_current() == {}


def test_it_is_the_child_of_the_publish_where_that_is_asked_for() -> None:
    telemetry = Telemetry()
    subscriber = telemetry.instrument(gearhorn.Subscriber("web1", NOWHERE), parent=True)
    subscriber.on("t")(lambda message: None)
    testing.call(subscriber, "t", headers={"traceparent": PARENT})
    testing.call(subscriber, "t")
    child, root = telemetry.spans
    assert child.parent is not None
    assert f"{child.parent.span_id:016x}" == "b7ad6b7169203331"
    assert len(child.links) == 1
    assert (root.parent, root.links) == (None, ())


@on_loop
async def test_a_coroutine_runs_in_its_span_too() -> None:
    telemetry = Telemetry()
    subscriber = telemetry.instrument(aio.Subscriber("web1", NOWHERE))

    @subscriber.on("t")
    async def handle(message: gearhorn.Message) -> None:
        with telemetry.tracer.start_as_current_span("inner"):
            raise gearhorn.Retry("later", after=3)

    assert (await testing.acall(subscriber, "t")).failed
    inner, processing = telemetry.spans
    assert inner.parent == processing.context
    assert processing.status.description == "later"
    assert dict(processing.attributes or {})["error.type"] == "gearhorn.client.message.Retry"
    async with telemetry.instrument(aio.Publisher(NOWHERE)) as publisher:
        with testing.record(publisher) as published:
            await publisher.publish("t")
    assert published[0].headers["traceparent"] == traceparent_of(telemetry.spans[-1])


def test_metrics_of_handlers_have_the_topic_as_it_was_subscribed() -> None:
    telemetry = Telemetry()
    subscriber = telemetry.instrument(gearhorn.Subscriber("web1", NOWHERE))
    subscriber.on("orders.*", pattern=True)(lambda message: None)
    subscriber.on("t", type=int)(lambda body, message: None)
    testing.call(subscriber, "orders.north", unique="u")
    testing.call(subscriber, "t", "seven")
    pattern, _ = telemetry.spans
    named = {"messaging.destination.template": "orders.*"}
    assert pattern.name == "process orders.*"
    assert pattern.attributes == PROCESSING | named | {
        "messaging.destination.name": "orders.north",
        "messaging.message.id": "u",
    }
    plain = PROCESSING | {"messaging.destination.name": "t"}
    failed = plain | {"error.type": "msgspec.DecodeError"}
    durations = telemetry.points("messaging.process.duration")
    assert durations == [(1, PROCESSING | named), (1, failed)]
    consumed = telemetry.points("messaging.client.consumed.messages")
    assert consumed == [(1, PROCESSING | named), (1, plain)]
    metrics = telemetry.metrics()
    assert metrics["messaging.process.duration"].unit == "s"
    [first, _] = metrics["messaging.process.duration"].data.data_points
    assert tuple(first.explicit_bounds) == BUCKETS


def test_without_an_sdk_nothing_happens() -> None:
    publisher = instrument(gearhorn.Publisher(NOWHERE))
    subscriber = instrument(gearhorn.Subscriber("web1", NOWHERE))
    subscriber.on("t")(lambda message: "yes")
    with testing.record(publisher) as published:
        publisher.publish("t", "x")
    assert published[0].headers == {}
    assert testing.call(subscriber, "t").text == "yes"


def test_only_publishers_and_subscribers_are_instrumented() -> None:
    with pytest.raises(TypeError, match="expected a publisher or a subscriber"):
        instrument(gearhorn.Admin(NOWHERE))  # type: ignore[type-var]


def test_the_library_does_without_it() -> None:
    program = (
        "import sys, gearhorn.aio; from gearhorn import *; from gearhorn.testing import *\n"
        "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == []
