"""Patterns: which topics a pattern matches, and which patterns match a topic.

Theory of operation. Topics and patterns are parted by periods into segments. In a pattern ``*``
stands for one segment, and ``>``, as the last one, for one or more. Two questions are asked, and
each has its own answer in less time than trying every pattern on every topic:

* Which of 10,000 patterns match this topic? A ``Trie`` over segments: only what agrees with the
  topic so far is followed, so the time grows with what matches and not with what there is.
* Which of 100,000 topics does this pattern match? A ``Matcher``: one test in C for each topic. Of
  many patterns together it is a trie again, which each topic is looked up in.

Rules: pure. Patterns are given by the names of their lists (``names.list_name``). Topics that begin
with two underscores are matched by no pattern ("Patterns" in docs/protocol.rst).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from gearhorn.names import SEGMENT, SOME, TAIL, is_pattern, is_reserved, shown_name

FEW = 8  # patterns that are tried one by one on each topic; more are looked up in a trie
_END = None  # under this a trie has the name of the pattern that ends there
_Node = dict[Any, Any]  # segment -> node; TAIL or _END -> the name of a pattern


class Trie:
    """A set of patterns, asked which of them match a topic."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._root: _Node = {}
        self._names: set[str] = set()
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> AbstractSet[str]:
        """The names of the patterns' lists."""
        return self._names

    def add(self, name: str) -> None:
        """Add a pattern."""
        self._names.add(name)
        *segments, last = shown_name(name).split(SEGMENT)
        node = self._root
        for segment in segments:
            node = node.setdefault(segment, {})
        if last == TAIL:
            node[TAIL] = name
        else:
            node.setdefault(last, {})[_END] = name

    def remove(self, name: str) -> None:
        """Remove a pattern that is there, and what of the trie led to it alone."""
        self._names.remove(name)
        segments = shown_name(name).split(SEGMENT)
        if segments[-1] == TAIL:
            segments.pop()
            end: str | None = TAIL
        else:
            end = _END
        path = [self._root]
        for segment in segments:
            path.append(path[-1][segment])
        del path[-1][end]
        for node, segment in zip(reversed(path[:-1]), reversed(segments), strict=True):
            if node[segment]:
                return
            del node[segment]

    def matching(self, topic: str) -> list[str]:
        """Return the names of the patterns that match a topic.

        Each node is visited once at most, so the time is bounded by the size of the trie.
        """
        if not self._root or is_reserved(topic):
            return []
        found: list[str] = []
        nodes = [self._root]
        for segment in topic.split(SEGMENT):
            is_plain = segment not in (SOME, TAIL)  # a topic may look like a pattern
            following = []
            for node in nodes:
                if TAIL in node:
                    found.append(node[TAIL])
                if is_plain and segment in node:
                    following.append(node[segment])
                if SOME in node:
                    following.append(node[SOME])
            if not following:
                return found
            nodes = following
        found += [node[_END] for node in nodes if _END in node]
        return found


class Matcher:
    """A few patterns, or many, asked which of many topics any of them matches.

    Arguments:
        names: of the patterns' lists.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._tests: list[Callable[[str], object]] = []
        if len(names) > FEW:
            self._tests.append(Trie(names).matching)
        else:
            self._tests += [_test(shown_name(name)) for name in names]

    def among(self, topics: Iterable[str]) -> list[str]:
        """Return those of some topics that a pattern matches, each once."""
        if len(self._tests) == 1:
            return list(filter(self._tests[0], topics))
        return [topic for topic in topics if any(test(topic) for test in self._tests)]


def _test(pattern: str) -> Callable[[str], object]:
    """Return what says of a topic whether a pattern matches it."""
    *segments, last = pattern.split(SEGMENT)
    if last == TAIL and segments and SOME not in segments and not is_reserved(pattern):
        prefix = pattern.removesuffix(TAIL)
        return lambda topic: topic.startswith(prefix)
    parts = ["[^.]*" if segment == SOME else re.escape(segment) for segment in segments]
    parts.append({SOME: "[^.]*", TAIL: ".*"}.get(last) or re.escape(last))
    return re.compile(r"(?!__)" + r"\.".join(parts), re.DOTALL).fullmatch


def among(names: Sequence[str] | None, topics: Collection[str]) -> list[str]:
    """Return those of some topics that lists of these names concern.

    Arguments:
        names: of lists that changed; that of a pattern concerns what it matches, too. None: every
            topic is concerned.
        topics: that something is held of; names of patterns' lists may be among them.
    """
    if names is None:
        return list(topics)
    found = [name for name in names if name in topics]
    patterns = [name for name in names if is_pattern(name)]
    if patterns and topics:
        known = set(found)
        matched = Matcher(patterns).among(topic for topic in topics if not is_pattern(topic))
        found += [topic for topic in matched if topic not in known]
    return found
