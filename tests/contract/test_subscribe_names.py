"""What is promised of topics, client_ids and queue names, on both pairs of servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cluster import Cluster
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

NAMES = ("topic", "client_id")
REQUESTS: dict[str, dict[str, Any]] = {
    "subscribe_fanout": {"topic": "some", "client_id": "body"},
    "unsubscribe_fanout": {"topic": "some", "client_id": "body"},
    "fanout": {"topic": "some", "payload": "x", "background": True},
    "retain_fanout": {"topic": "some"},
    "fetch_fanout": {"topic": "some", "client_id": "body"},
    "parked_fanout": {"topic": "some", "client_id": "body", "action": "list"},
}
PUBLIC = ["subscribe_fanout", "unsubscribe_fanout", "fanout", "retain_fanout"]  # the others look
PLACES = [(f, key) for f, request in REQUESTS.items() for key in request if key in NAMES]
BOTH = ["subscribe_fanout", "unsubscribe_fanout"]


def bytes_of(count: int, name: str, filler: str = "x") -> str:
    """`name` made longer, to `count` bytes of UTF-8 and mostly `filler`."""
    size = len(filler.encode())
    missing = count - len(name.encode())
    return name + filler * (missing // size) + "x" * (missing % size)


# What a name may be


@pytest.mark.parametrize(("function", "key"), PLACES)
def test_an_empty_name_is_refused(raw: Raw, function: str, key: str) -> None:
    text = refusal(raw.ask(function, **REQUESTS[function] | {key: ""}))
    assert text.startswith(f"bad_name: {key}")
    assert "1 to 255" in text


@pytest.mark.parametrize("filler", ["x", "é", "€", "😀"])
@pytest.mark.parametrize(("function", "key"), PLACES)
def test_a_name_of_more_than_255_bytes_is_refused(
    raw: Raw, function: str, key: str, filler: str
) -> None:
    name = bytes_of(256, "", filler)
    text = refusal(raw.ask(function, **REQUESTS[function] | {key: name}))
    assert text.startswith(f"bad_name: {key}")
    assert "255" in text


@pytest.mark.parametrize(("function", "key"), PLACES)
def test_a_space_or_control_character_anywhere_in_a_name_is_refused(
    raw: Raw, function: str, key: str
) -> None:
    for number in [*range(0x21), 0x7F]:
        for name in (chr(number), f"{chr(number)}a", f"a{chr(number)}b", f"a{chr(number)}"):
            text = refusal(raw.ask(function, **REQUESTS[function] | {key: name}))
            assert text.startswith(f"bad_name: {key}"), (name, text)
            assert "space or control character" in text


@pytest.mark.parametrize(("function", "key"), PLACES)
@pytest.mark.parametrize("value", [1, 1.5, True, None, ["a"], {"a": "b"}])
def test_a_name_that_is_no_string_is_refused(
    raw: Raw, function: str, key: str, value: object
) -> None:
    text = refusal(raw.ask(function, **REQUESTS[function] | {key: value}))
    assert text.startswith(f"bad_request: {key}")


@pytest.mark.parametrize("filler", ["x", "é", "€", "😀"])
def test_names_of_255_bytes_carry_copies(
    cluster: Cluster, raw: Raw, topic: str, filler: str
) -> None:
    longest = bytes_of(255, topic, filler)
    client = bytes_of(255, "", filler)
    outcome = raw.ask("subscribe_fanout", topic=longest, client_id=client)
    assert json.loads(outcome.data)["queue"] == f"{longest}_{client}"
    alice = raw.taker(f"{longest}_{client}")
    assert cluster.publish(longest, "far").data == b"1"
    assert alice.finish() == [b"far"]


def test_names_of_one_byte_carry_copies(cluster: Cluster, raw: Raw) -> None:
    cluster.subscribe("1", "1")
    alice = raw.taker("1_1")
    assert cluster.publish("1", "near").data == b"1"
    assert alice.finish() == [b"near"]


@pytest.mark.parametrize("odd", ['"', "\\", "/", "%s", ".", "\x80\x85\xa0", "\u2028\ufeff", "é😀"])
def test_any_other_character_is_part_of_a_name(
    cluster: Cluster, raw: Raw, topic: str, odd: str
) -> None:
    strange, client = f"{odd}{topic}{odd}", f"{odd}alice{odd}"
    cluster.subscribe(strange, client)
    alice = raw.taker(f"{strange}_{client}")
    assert cluster.publish(strange, "odd").data == b"1"
    assert alice.finish() == [b"odd"]


def test_a_name_is_the_same_however_json_spells_it(raw: Raw, topic: str) -> None:
    escaped = f'{{"topic": "{topic}-\\u00e9", "client_id": "\\ud83d\\ude00"}}'
    assert raw.ask("subscribe_fanout", escaped.encode()).kind == "complete"
    alice = raw.taker(f"{topic}-é_😀")
    plain = f'{{"topic": "{topic}-é", "payload": "x", "background": true}}'
    assert raw.ask("fanout", plain.encode()).data == b"1"
    assert alice.finish() == [b"x"]


# Reserved names


@pytest.mark.parametrize("name", ["__", "__x", "__matchmaking", "__matchmaking_X", "__gossipping"])
@pytest.mark.parametrize("function", PUBLIC)
def test_topics_that_begin_with_two_underscores_are_reserved(
    raw: Raw, function: str, name: str
) -> None:
    text = refusal(raw.ask(function, **REQUESTS[function] | {"topic": name}))
    assert text.startswith("reserved: ")
    assert name in text


def test_gossip_may_be_subscribed_but_not_published(raw: Raw, topic: str) -> None:
    outcome = raw.ask("subscribe_fanout", topic="__gossip", client_id=topic)
    assert json.loads(outcome.data)["queue"] == f"__gossip_{topic}"
    for background in (True, False):
        outcome = raw.ask("fanout", topic="__gossip", payload="psst", background=background)
        assert refusal(outcome).startswith("reserved: ")
    assert raw.ask("unsubscribe_fanout", topic="__gossip", client_id=topic).kind == "complete"


def test_gossip_has_no_log(raw: Raw, topic: str) -> None:
    request = {"topic": "__gossip", "client_id": topic}
    for durable in (True, {}, {"pull": True}):
        text = refusal(raw.ask("subscribe_fanout", **request, durable=durable))
        assert text.startswith("reserved: ")
    assert refusal(raw.ask("retain_fanout", topic="__gossip")).startswith("reserved: ")
    assert refusal(raw.ask("fetch_fanout", topic="__gossip", after=0)).startswith("unknown: ")


@pytest.mark.parametrize("client", ["matchmaking_X", "gossip_X", "x", "_"])
@pytest.mark.parametrize("function", BOTH)
def test_a_queue_that_begins_with_two_underscores_is_reserved(
    raw: Raw, function: str, client: str
) -> None:
    text = refusal(raw.ask(function, topic="_", client_id=client))
    assert text.startswith("reserved: ")
    assert f"__{client}" in text


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("subscribe", "fanout"),
        ("unsubscribe", "fanout"),
        ("register", "fanout_subscriber"),
        ("register_fanout", "subscriber"),
        *((name, "fanout") for name in ("retain", "fetch", "parked", "describe")),
    ],
)
@pytest.mark.parametrize("function", BOTH)
def test_a_queue_may_not_be_a_function_of_gearhorns_own(
    raw: Raw, function: str, name: str, client: str
) -> None:
    text = refusal(raw.ask(function, topic=name, client_id=client))
    assert text.startswith("reserved: ")
    assert f"{name}_{client}" in text


def test_only_the_begin_of_a_name_reserves_it(cluster: Cluster, raw: Raw, topic: str) -> None:
    for name, client in ((f"_{topic}", "a"), (f"{topic}__x", "__b"), ("subscribe", f"f{topic}")):
        cluster.subscribe(name, client)
        alice = raw.taker(f"{name}_{client}")
        assert cluster.publish(name, "x").data == b"1"
        assert alice.finish() == [b"x"]
        assert raw.ask("unsubscribe_fanout", topic=name, client_id=client).kind == "complete"


# Ambiguous queue names


def test_the_first_subscription_owns_the_queue_name(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(f"{topic}_b", "c_d")
    for rival, client in ((topic, "b_c_d"), (f"{topic}_b_c", "d")):
        text = refusal(raw.ask("subscribe_fanout", topic=rival, client_id=client))
        assert text.startswith("queue_taken: ")
        assert f"{topic}_b," in text
        assert "client c_d, until that is unsubscribed" in text
        assert cluster.publish(rival, "astray").data == b"0"
    alice = raw.taker(f"{topic}_b_c_d")
    assert cluster.publish(f"{topic}_b", "home").data == b"1"
    assert alice.finish() == [b"home"]


def test_the_owner_of_a_queue_name_may_subscribe_again(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(f"{topic}_b", "c", "c")
    assert cluster.publish(f"{topic}_b", "x").data == b"1"


def test_a_queue_name_is_free_once_its_owner_has_unsubscribed(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    first, second = (f"{topic}_b", "c"), (topic, "b_c")
    for owner, rival in ((first, second), (second, first), (first, second)):
        cluster.subscribe(*owner)
        outcome = raw.ask("subscribe_fanout", topic=rival[0], client_id=rival[1])
        assert refusal(outcome).startswith("queue_taken: ")
        outcome = raw.ask("unsubscribe_fanout", topic=owner[0], client_id=owner[1])
        assert outcome.kind == "complete"
    cluster.subscribe(*second)
    alice = raw.taker(f"{topic}_b_c")
    assert cluster.publish(first[0], "old").data == b"0"
    assert cluster.publish(second[0], "new").data == b"1"
    assert alice.finish() == [b"new"]


def test_who_does_not_own_a_queue_cannot_free_or_drain_it(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(f"{topic}_b", "c")
    assert cluster.publish(f"{topic}_b", "mine").data == b"1"
    outcome = raw.ask("unsubscribe_fanout", topic=topic, client_id="b_c", drain=True)
    assert outcome.kind == "complete"
    assert not json.loads(outcome.data).get("drained")
    assert cluster.publish(f"{topic}_b", "still mine").data == b"1"
    assert raw.taker(f"{topic}_b_c").finish(2) == [b"mine", b"still mine"]


def test_of_rivals_that_come_together_exactly_one_owns_the_queue(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    for number in range(10):
        pairs = [(f"{topic}{number}_b_c", "d"), (f"{topic}{number}_b", "c_d")]
        pairs.append((f"{topic}{number}", "b_c_d"))
        asked = [raw.start("subscribe_fanout", topic=t, client_id=c) for t, c in pairs]
        outcomes = [pending.outcome() for pending in asked]
        assert sorted(outcome.kind for outcome in outcomes) == ["complete", "fail", "fail"]
        counts = [cluster.publish(name, "x").data for name, _ in pairs]
        assert sorted(counts) == [b"0", b"0", b"1"]
        owner = [outcome.kind for outcome in outcomes].index("complete")
        assert counts[owner] == b"1"
