"""A trace goes on where a message is received: through real servers, and for both faces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.cluster import eventually
from support.proxy import on_loop

import gearhorn
from gearhorn import testing
from gearhorn.otel import instrument


@pytest.fixture(scope="module")
def running() -> Iterator[testing.Standalone]:
    """A gearhorn that the tests of this module share."""
    with testing.standalone() as running:
        yield running


class Spans:
    """Keeps the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The spans of a name, once there are so many."""
        eventually(lambda: len(self._named(name)) >= count, what=f"no {name}")
        return self._named(name)

    def _named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.mark.parametrize("durable", [False, True])
def test_a_receiver_links_to_the_publish(
    running: testing.Standalone, topic: str, durable: bool
) -> None:
    with running.lent():
        spans = Spans()
        publisher = instrument(running.publisher(), spans.provider)
        seen: list[gearhorn.Message] = []
        for client_id in ("web1", "web2"):
            subscriber = instrument(running.subscriber(client_id), spans.provider)
            subscriber.on(topic, durable=durable)(seen.append)
            subscriber.start()
        publisher.publish(topic, "one", headers={"kind": "greeting"})
        publisher.publish_many([(topic, "two")])
        processed = spans.named(f"process {topic}", 4)
        published = spans.named(f"publish {topic}", 2)
        linked = [span.links[0].context.span_id for span in processed]
        made = [span.context.span_id for span in published if span.context is not None]
        assert sorted(linked) == sorted(2 * made)
        assert all(span.parent is None for span in processed)
        assert seen[0].headers["kind"] == "greeting"
        if durable:
            ids = [dict(span.attributes or {})["messaging.message.id"] for span in processed]
            assert dict(published[0].attributes or {})["messaging.message.id"] in ids
        described = {
            str(dict(span.attributes or {})["messaging.destination.subscription.name"])
            for span in processed
        }
        assert described == {"web1", "web2"}


@on_loop
async def test_for_asyncio_a_question_is_a_call_and_its_answers_are_its_children(
    running: testing.Standalone, topic: str
) -> None:
    spans = Spans()
    subscriber = instrument(running.aio.subscriber("web1"), spans.provider, parent=True)

    @subscriber.on(topic)
    async def handle(message: gearhorn.Message) -> str:
        return message.text.upper()

    async with subscriber, instrument(running.aio.publisher(), spans.provider) as publisher:
        assert (await publisher.ask(topic, "x"))["web1"].text == "X"
        assert [answer.client_id async for answer in publisher.ask_iter(topic, "x")] == ["web1"]
        asking: Any = publisher.ask_iter(topic, "x")
        async with aclosing(asking) as answers:
            async for _ in answers:
                break  # a caller that leaves is no failure
    asked = spans.named(f"ask {topic}", 3)
    processed = spans.named(f"process {topic}", 3)
    assert {span.parent.span_id for span in processed if span.parent is not None} == {
        span.context.span_id for span in asked if span.context is not None
    }
    assert [span.status.is_unset for span in asked] == [True] * 3
