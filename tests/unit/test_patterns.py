"""Patterns: the trie and the matcher agree with the rule, in little time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.matching import matches

from gearhorn.errors import BadName
from gearhorn.names import check_pattern, client_of, is_pattern, list_name, queue_of, shown_name
from gearhorn.patterns import FEW, Matcher, Trie, among

SLOWNESS = 5  # of the machine that runs the tests
segments = st.sampled_from(["a", "b", "", "*", ">", "__a"])
topics = st.lists(segments, min_size=1, max_size=5).map(".".join)
patterns = (
    st.lists(segments.filter(lambda one: one != ">"), max_size=4)
    .flatmap(lambda head: st.sampled_from(["a", "b", "*", ">"]).map(lambda end: [*head, end]))
    .map(".".join)
)


def fastest_s(work: Callable[[], object]) -> float:
    """The CPU time of the fastest of a few tries."""
    tries = []
    for _ in range(5):
        begun_s = time.thread_time()
        work()
        tries.append(time.thread_time() - begun_s)
    return min(tries)


def names_of(*patterns: str) -> list[str]:
    return [list_name(pattern, True) for pattern in patterns]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.*", ["a.b", "a.", "a.*", "a.>"], ["a", "a.b.c", "b.a", "A.b"]),
        ("a.>", ["a.b", "a.b.c", "a."], ["a", "b.a"]),
        (">", ["a", "a.b", ">"], ["__gossip", "__a.b"]),
        ("*", ["a", "*"], ["a.b", "__gossip"]),
        ("*.b", ["a.b", ".b"], ["b", "__a.b"]),
        ("a", ["a"], ["a.a", "b"]),
        ("a*.b", ["a*.b"], ["ab.b"]),
        ("a..b", ["a..b"], ["a.b", "a.c.b"]),
        ("a\nb.*", ["a\nb.c\nd"], ["a"]),
    ],
)
def test_a_star_is_one_segment_and_the_last_one_may_be_any_number(
    pattern: str, yes: list[str], no: list[str]
) -> None:
    trie, matcher = Trie(names_of(pattern)), Matcher(names_of(pattern))
    assert [topic for topic in yes + no if trie.matching(topic)] == yes
    assert matcher.among(yes + no) == yes


@example({"__a.>"}, set(), {"__a.a"})
@given(st.sets(patterns, max_size=2 * FEW), st.sets(patterns, max_size=3), st.sets(topics))
def test_trie_and_matcher_agree_with_the_rule_whatever_was_added_and_removed(
    kept: set[str], gone: set[str], some: set[str]
) -> None:
    trie = Trie(names_of(*sorted(kept | gone)))
    for name in names_of(*sorted(gone - kept)):
        trie.remove(name)
    assert set(trie.names) == set(names_of(*kept))
    for topic in some:
        expected = {pattern for pattern in kept if matches(pattern, topic)}
        found = trie.matching(topic)
        assert {shown_name(name) for name in found} == expected
        assert len(found) == len(expected)
    if kept:
        expected = {topic for topic in some if any(matches(pattern, topic) for pattern in kept)}
        assert sorted(Matcher(names_of(*kept)).among(some)) == sorted(expected)


@given(st.sets(patterns, max_size=20))
def test_a_trie_whose_patterns_are_removed_is_empty(some: set[str]) -> None:
    trie = Trie(names_of(*some))
    for name in names_of(*some):
        trie.remove(name)
    assert not trie._root


def test_names_of_lists_tell_patterns_from_topics_that_look_like_them() -> None:
    name = list_name("a.*", True)
    assert is_pattern(name)
    assert not is_pattern(list_name("a.*", False))
    assert shown_name(name) == shown_name("a.*") == "a.*"
    assert queue_of(name, "alice") == queue_of("a.*", "alice") == b"a.*_alice"
    assert client_of(name, b"a.*_alice") == "alice"


@pytest.mark.parametrize("pattern", ["a.>.b", ">.a", ">.>", ".".join(["a"] * 17)])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadName):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a", ">", "*", "a.>", "*.*.*", ".", "a*", ".".join("a" * 16)])
def test_what_is_a_pattern_is_not(pattern: str) -> None:
    check_pattern(pattern)


def test_among_knows_names_patterns_and_everything() -> None:
    held = {"a": 0, "a.b": 0, "c": 0, " a.*": 0, " c": 0}
    assert among(None, held) == list(held)
    assert among([], held) == []
    assert among(["a", "d"], held) == ["a"]
    assert sorted(among([" a.*", "a.b"], held)) == [" a.*", "a.b"]
    assert sorted(among([" >"], held)) == ["a", "a.b", "c"], "a pattern matches topics only"


def test_ten_thousand_patterns_are_matched_in_a_millisecond() -> None:
    some = [
        f"{first}.{second}.*.{third}"
        for first in "ab*"
        for second in range(60)
        for third in range(55)
    ]
    some += [f"{first}.>" for first in range(100)]
    trie = Trie(names_of(*some))
    assert len(trie) == 10_000
    assert len(trie.matching("a.7.x.7")) == 2
    assert fastest_s(lambda: trie.matching("a.7.x.7")) < 0.001


def test_a_trie_in_which_everything_has_to_be_followed_is_bounded() -> None:
    some = {f"{number:013b}".replace("0", "a.").replace("1", "*.") + "b" for number in range(8192)}
    trie = Trie(names_of(*some))
    topic = ".".join("a" * 13) + ".b"
    assert len(trie.matching(topic)) == 8192
    assert fastest_s(lambda: trie.matching(topic)) < 0.02 * SLOWNESS


@pytest.mark.parametrize("pattern", ["orders.*.made.*", "*.7.>", "news.>", ">", "orders.7.made.7"])
def test_a_pattern_is_matched_with_a_hundred_thousand_topics_in_20_ms(pattern: str) -> None:
    some = [f"orders.{number % 1000}.made.{number}" for number in range(100_000)]
    matcher = Matcher(names_of(pattern))
    assert fastest_s(lambda: matcher.among(some)) < 0.02 * SLOWNESS
