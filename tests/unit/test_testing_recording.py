"""A recorded publisher sends nothing, says what it would have sent, and fails as it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.proxy import on_loop

import gearhorn
from gearhorn import aio
from gearhorn.client.many import Outgoing
from gearhorn.client.payloads import request_of
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import decode_fanout
from gearhorn.testing.recording import Sent, record

NOWHERE = "nowhere.invalid"


def test_what_was_published_is_compared() -> None:
    publisher = gearhorn.Publisher(NOWHERE)
    with record(publisher) as published:
        assert published == []
        assert publisher.publish("a", "text").copies == 1
        publisher.publish("b", b"\xff")
        publisher.publish("c", {"one": 1, "two": [2]})
        assert published == [("a", "text"), ("b", b"\xff"), ("c", {"two": [2], "one": 1})]
        assert published != [("a", "text"), ("b", b"\xff")]
        assert published[0] == ("a", b"text")
        assert published[0] != ("a", {"text": 1})
        assert published[2] != ("c", '{"two": [2], "one": 1}'), "a text is compared as it is"
        assert [sent.topic for sent in published] == ["a", "b", "c"]
        assert (published[0].text, published[2].json()["one"]) == ("text", 1)
        assert published != "a"
        published.clear()
        assert len(published) == 0


def test_everything_is_compared_with_an_outgoing_message() -> None:
    publisher = gearhorn.Publisher(NOWHERE)
    published = record(publisher)
    details: dict[str, Any] = {
        "unique": "u",
        "headers": {"Trace": "1"},
        "exclude": ["x", "y"],
        "priority": "high",
        "expires": 3.0,
    }
    publisher.publish("t", "p", **details)
    assert published[0].headers == {"trace": "1"}, "as receivers see them"
    assert published == [Outgoing("t", "p", **details)]
    assert published == [("t", "p")]
    for key in details:
        others = {name: value for name, value in details.items() if name != key}
        assert published != [Outgoing("t", "p", **others)], key
    request = encode(request_of("t", "p", **details))
    assert published[0] == Sent.of("publish", decode_fanout(request, 1000))
    assert published[0] != 1


def test_the_next_is_refused_as_the_test_says() -> None:
    publisher = gearhorn.Publisher(NOWHERE)
    published = record(publisher)
    published.refuse_next(gearhorn.Busy("too many"))
    published.refuse_next(gearhorn.Unsure("the reply is lost"))
    with pytest.raises(gearhorn.Busy, match="busy: too many"):
        publisher.publish("t", "1")
    results = publisher.publish_many([("t", "2"), ("t", "3")])
    assert list(map(str, results.failed.values())) == ["the reply is lost"]
    assert results[1] == gearhorn.Published(1)
    assert published == [("t", "3")]
    assert [sent.text for sent in published.refused] == ["1", "2"]
    assert publisher.core._jobs is None


def test_what_no_worker_takes_is_refused_as_by_one() -> None:
    publisher = gearhorn.Publisher(NOWHERE)
    published = record(publisher)
    with pytest.raises(gearhorn.Reserved):
        publisher.publish("__gossip", "x")
    with pytest.raises(gearhorn.BadName):
        publisher.publish("a b", "x")
    with pytest.raises(gearhorn.BadRequest, match="expires"):
        publisher.publish("t", "x", expires=-1)
    with pytest.raises(gearhorn.TooLarge):
        publisher.publish("t", "x" * (8 * 1024 * 1024 + 1))
    with pytest.raises(TypeError):
        publisher.publish("t", object())
    assert published == []


def test_hosts_answer_what_the_test_says() -> None:
    publisher = gearhorn.Publisher(NOWHERE)
    published = record(publisher)
    assert len(publisher.ask("t", "who?")) == 0
    assert publisher.deliver("t", "all").delivered == ()
    for _ in range(3):
        published.answer_next({"web1": "up", "web2": b"\xff", "web3": {"n": 1}})
    answers = publisher.ask("t", "who?")
    assert (answers["web1"].text, answers["web2"].data, answers["web3"].json()) == (
        "up",
        b"\xff",
        {"n": 1},
    )
    assert publisher.deliver("t", "all").delivered == ("web1", "web2", "web3")
    streamed = list(publisher.ask_iter("t", "who?"))
    assert [answer.client_id for answer in streamed] == ["web1", "web2", "web3"]
    assert [sent.operation for sent in published] == ["ask", "deliver", "ask", "deliver", "ask"]
    assert publisher.core._jobs is None, "nothing is connected for this"


@on_loop
async def test_the_same_goes_for_asyncio() -> None:
    async with aio.Publisher(NOWHERE) as publisher:
        with record(publisher) as published:
            await asyncio.gather(*(publisher.publish("t", str(number)) for number in range(3)))
            published.refuse_next(gearhorn.NotConnected("no server"))
            with pytest.raises(gearhorn.NotConnected):
                await publisher.ask("t")
            results = await publisher.publish_many([("t", "3")], window=1)
            results.raise_any()
            assert published == [("t", "0"), ("t", "1"), ("t", "2"), ("t", "3")]
            assert publisher._jobs is None
        assert not publisher.is_observed
