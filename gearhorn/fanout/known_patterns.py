"""Known patterns: which patterns there are, and which of them match a topic.

Theory of operation. A list that is read has to have the subscriptions of every pattern that was
there when the read began. So each read of a list is told the store's *word* for the set of
patterns, which is another one after every change of that set (``store.patterns``). Where it is the
word under which the set here was read, the set is right. Where it is not, the set is read anew,
which gives one of this moment or later: just as right for a read that is not over. Nothing has to
be told or dropped for that, and a store that was emptied or replaced has another word.

Those who find the word changed at the same time share a read, as long as it began after they had
come. A set that is read differs little from the one before, so only the difference is worked into
the trie, in pieces, and no topic is matched meanwhile.

Rules: runs on the event loop, which is its only writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gearhorn.patterns import Trie
from gearhorn.store.patterns import PatternSet

_NO_WORD = b"?"  # that the store has for no set
MATCHED = 20  # topics that are matched in one turn; one that thousands match takes a millisecond
STEP = 500  # patterns that are worked in before the event loop has its turn: 2 ms


class KnownPatterns:
    """The patterns, as this member read them last.

    Arguments:
        patterns: where they are in the store.
    """

    def __init__(self, patterns: PatternSet) -> None:
        self._patterns = patterns
        self._trie = Trie()
        self._word = b""  # of what the trie has
        self._turn = asyncio.Lock()
        self._begun = 0  # reads
        self._done = 0  # the last one that was worked in

    @property
    def count(self) -> int:
        """How many patterns this member knows."""
        return len(self._trie)

    async def matching(self, topic: str, word: bytes | None = None) -> list[str]:
        """Return the names of the lists of patterns that match a topic.

        Arguments:
            topic: which is looked up.
            word: the store's word for the patterns, of a moment not before the one that the answer
                is wanted for; None: it is asked for.

        Raises ``StoreError``.
        """
        if word is None:
            word = await self._patterns.word()
        if word != self._word:
            asked = self._begun
            async with self._turn:
                is_younger = self._done > asked and self._word != _NO_WORD
                if word != self._word and not is_younger:
                    await self._read()
        return self._trie.matching(topic)

    async def counts(self, topics: Sequence[str]) -> list[int]:
        """Return how many patterns match each of these topics; raises ``StoreError``."""
        word = await self._patterns.word()
        counts = []
        for number, topic in enumerate(topics, 1):
            counts.append(len(await self.matching(topic, word)))
            if not number % MATCHED:
                await asyncio.sleep(0)
        return counts

    async def _read(self) -> None:
        """Read the patterns, and work in what is new and what is gone."""
        self._begun += 1
        number = self._begun
        found = await self._patterns.read()
        names = {name.decode() for name in found.names}
        trie = self._trie
        gone, new = trie.names - names, names - trie.names
        self._word = _NO_WORD  # until all is worked in
        for at, name in enumerate([*gone, *new], 1):
            if name in new:
                trie.add(name)
            else:
                trie.remove(name)
            if not at % STEP:
                await asyncio.sleep(0)
        self._word, self._done = found.word, number
