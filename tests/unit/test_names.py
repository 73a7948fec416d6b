"""The rules of names, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn import names
from gearhorn.errors import BadName, Reserved

SERVED = frozenset({b"fanout", b"subscribe_fanout"})


@pytest.mark.parametrize("name", ["a", "x" * 255, "é" * 127, "news.eu-1", "a_b", "日本"])
def test_a_good_name_passes(name: str) -> None:
    names.check_name("topic", name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("a b", "space"),
        ("a\n", "control"),
        ("a\x7f", "control"),
        ("\0", "control"),
    ],
)
def test_a_bad_name_is_refused_with_its_rule(name: str, words: str) -> None:
    with pytest.raises(BadName, match=words) as refused:
        names.check_name("client_id", name)
    assert str(refused.value).startswith("bad_name: client_id ")


@pytest.mark.parametrize(
    ("topic", "client_id"),
    [
        ("__matchmaking", "x"),
        ("__anything", "x"),
        ("_", "matchmaking_X"),
        ("_", "_x"),
        ("subscribe", "fanout"),
    ],
)
def test_reserved_subscriptions_are_refused(topic: str, client_id: str) -> None:
    with pytest.raises(Reserved):
        names.check_subscription(topic, client_id, SERVED)


def test_anybody_may_subscribe_to_gossip_but_not_publish_it() -> None:
    assert names.check_subscription("__gossip", "me", SERVED) == b"__gossip_me"
    with pytest.raises(Reserved):
        names.check_publish("__gossip")


def test_every_pair_that_makes_a_queue_is_found() -> None:
    literal = {("a", "b_c"), ("a_b", "c")}
    by_pattern = {(names.list_name(topic, True), client) for topic, client in literal}
    assert set(names.splits_of(b"a_b_c")) == literal | by_pattern
    assert list(names.splits_of(b"plain")) == []


TEXTS = st.text(min_size=1, max_size=20)
# A space in front is no part of a topic: it marks the list of a pattern.
TOPICS = TEXTS.filter(lambda text: not text.startswith(" "))


@given(TOPICS, TEXTS)
def test_a_pair_is_among_the_splits_of_its_queue(topic: str, client_id: str) -> None:
    queue = names.queue_of(topic, client_id)
    assert (topic, client_id) in set(names.splits_of(queue))
    assert all(names.queue_of(*pair) == queue for pair in names.splits_of(queue))
    assert names.client_of(topic, queue) == client_id


@pytest.mark.parametrize("reserved", ["__gossip", "__*", "__.>"])
def test_a_reserved_pattern_is_refused(reserved: str) -> None:
    with pytest.raises(Reserved, match="matched by no pattern"):
        names.check_pattern(reserved)
