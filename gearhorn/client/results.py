"""What comes of a request: where a message stands, who has processed it, and what was answered.

Rules: values only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from gearhorn.client.payloads import data_of
from gearhorn.errors import GearhornError


class Position(NamedTuple):
    """Where a message stands in its topic's log: an ``epoch`` names one life of the log."""

    sequence: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Published:
    """A message that was published: the workers answer for it from here on.

    Attributes:
        copies: how many copies job servers accepted, and durable subscriptions it is logged for.
        dropped: client_ids whose queue was full.
        position: where it stands in the topic's log, None where the topic has none.
    """

    copies: int
    dropped: tuple[str, ...] = ()
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a message at each receiver ("Receipt" in docs/protocol.rst).

    Attributes:
        copies: how many copies were accepted.
        delivered: client_ids whose receivers have processed it.
        failed: client_id to reason.
        pending: client_ids that had not finished when the reply was sent.
        dropped: client_ids whose queue was full.
        results: client_id to what its receiver returned.
        omitted: client_ids whose results did not fit.
        unlisted: by kind, how many client_ids did not fit.
        position: where the message stands in the topic's log.
        expired: client_ids for which it was not begun any more, since its time was over.
    """

    copies: int
    delivered: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    results: Mapping[str, bytes] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()
    unlisted: Mapping[str, int] = field(default_factory=dict)
    position: Position | None = None
    expired: tuple[str, ...] = ()

    @property
    def addressed(self) -> int:
        """How many subscriptions the message was for. Each of them is delivered, failed, pending,
        dropped or expired, those that did not fit into the reply among them. A quorum that is a
        percentage is of these."""
        lists = (self.delivered, self.failed, self.pending, self.dropped, self.expired)
        return sum(map(len, lists)) + sum(
            count for key, count in self.unlisted.items() if key != "results_omitted"
        )

    @property
    def succeeded(self) -> int:
        """How many receivers have processed it, those that did not fit into the reply among
        them."""
        return len(self.delivered) + self.unlisted.get("delivered", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one host answered.

    Attributes:
        client_id: which host.
        data: what it returned.
        seconds: after how long, where that was told.
        omitted: it returned something for which there was no room.
    """

    client_id: str
    data: bytes
    seconds: float | None = None
    omitted: bool = False

    @property
    def text(self) -> str:
        """The answer as text; raises ``UnicodeDecodeError`` where it is none."""
        return self.data.decode()

    def json(self, type: Any = Any) -> Any:
        """Return the answer decoded from JSON; raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(self.data, type=type)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one host gave no answer."""

    client_id: str
    reason: str
    seconds: float | None = None


class Answers(Mapping[str, Answer]):
    """The answers of hosts, by client_id: a mapping of those that have answered, in no order.

    Attributes:
        failed: client_id to reason, of the hosts that failed.
        missing: client_ids of the hosts that have not answered in time, or were not asked
            because their queue was full or the message had expired.
        receipt: all of it as the worker told it.
    """

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self.failed = dict(receipt.failed)
        self.missing = (*receipt.pending, *receipt.dropped, *receipt.expired)
        self._answers = {answer.client_id: answer for answer in _answers(receipt)}

    def __getitem__(self, client_id: str) -> Answer:
        return self._answers[client_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<{len(self)} answers, {len(self.failed)} failed, {len(self.missing)} missing>"


def _answers(receipt: Receipt) -> Iterator[Answer]:
    """Yield what the hosts of a receipt answered."""
    omitted = frozenset(receipt.omitted)
    for client_id in receipt.delivered:
        data = receipt.results.get(client_id, b"")
        yield Answer(client_id, data, omitted=client_id in omitted)


class Streamed:
    """Answers that come one by one: each host's first one counts.

    They may come again, when a worker dies and another one begins anew. And some may not have come
    when the receipt does, from a worker that knows no streams; so the receipt has the last word.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def take(self, piece: bytes) -> Answer | Failure | None:
        """Return what a piece of a streamed reply says; None where its host was heard already."""
        said = streamed(piece)
        if said.client_id in self._seen:
            return None
        self._seen.add(said.client_id)
        return said

    def rest(self, receipt: Receipt) -> Iterator[Answer | Failure]:
        """Yield what the receipt says of hosts that were not heard: answers first.

        A host with several subscriptions may be in two of the receipt's lists, of which a failure
        counts; in the receipt itself too, it is named by that alone.
        """
        yield from (answer for answer in _answers(receipt) if answer.client_id not in self._seen)
        reasons = dict.fromkeys(receipt.pending, "no answer")
        reasons.update(dict.fromkeys(receipt.dropped, "queue full"))
        reasons.update(dict.fromkeys(receipt.expired, "expired"))
        reasons.update(receipt.failed)
        for client_id, reason in reasons.items():
            if client_id not in self._seen:
                yield Failure(client_id, reason)


class Results(Sequence[Published | GearhornError]):
    """What became of many messages, in their order: ``Published`` or the error of each.

    An error says as much as the exception of ``publish`` would: ``NotConnected`` was surely not
    published, ``Unsure`` may have been.
    """

    def __init__(self, results: list[Published | GearhornError]) -> None:
        self._results = results

    def __getitem__(self, index: Any) -> Any:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    @property
    def failed(self) -> dict[int, GearhornError]:
        """The errors, by the index of the message."""
        return {
            index: result
            for index, result in enumerate(self._results)
            if isinstance(result, GearhornError)
        }

    def raise_any(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.failed.values():
            raise error

    def __repr__(self) -> str:
        failed = len(self.failed)
        return f"<{len(self) - failed} published, {failed} failed>"


class _Receipt(msgspec.Struct):
    copies: int
    delivered: list[str] = []
    failed: dict[str, str] = {}
    pending: list[str] = []
    dropped: list[str] = []
    results: dict[str, str] = {}
    results_base64: dict[str, bytes] = {}
    results_omitted: list[str] = []
    unlisted: dict[str, int] = {}
    expired: list[str] = []
    sequence: int = 0
    epoch: str = ""

    @property
    def position(self) -> Position | None:
        return Position(self.sequence, self.epoch) if self.epoch else None


class _Chunk(msgspec.Struct):
    client_id: str
    result: str | None = None
    result_base64: bytes | None = None
    error: str | None = None
    seconds: float | None = None
    omitted: bool = False


_receipt = msgspec.json.Decoder(_Receipt)
_chunk = msgspec.json.Decoder(_Chunk)


def published_of(reply: bytes) -> Published:
    """Return what the reply to a background fan-out says.

    It is a receipt where one was asked for, and the number of copies otherwise ("The reply" in
    docs/protocol.rst).
    """
    if reply[:1] != b"{":
        return Published(int(reply or b"0"))
    receipt = _receipt.decode(reply)
    return Published(receipt.copies, tuple(receipt.dropped), receipt.position)


def receipt_of(reply: bytes) -> Receipt:
    """Return the receipt of a foreground fan-out."""
    receipt = _receipt.decode(reply)
    results = {client_id: text.encode() for client_id, text in receipt.results.items()}
    results.update(receipt.results_base64)
    return Receipt(
        receipt.copies,
        tuple(receipt.delivered),
        receipt.failed,
        tuple(receipt.pending),
        tuple(receipt.dropped),
        results,
        tuple(receipt.results_omitted),
        receipt.unlisted,
        receipt.position,
        tuple(receipt.expired),
    )


def streamed(chunk: bytes) -> Answer | Failure:
    """Return what one piece of a streamed reply says: an answer, or why there is none. One whose
    result did not fit is an answer without data ("Answers as they come" in docs/protocol.rst)."""
    found = _chunk.decode(chunk)
    if found.error is not None:
        return Failure(found.client_id, found.error, found.seconds)
    data = data_of({"payload": found.result}) if found.result is not None else found.result_base64
    return Answer(found.client_id, data or b"", found.seconds, found.omitted)
