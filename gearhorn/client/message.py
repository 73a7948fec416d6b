"""Messages as handlers get them, and how a handler ends one.

Rules: a message is ended once, by whatever comes first; ending it is safe from any thread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from gearhorn.client.payloads import Payload, bytes_of, data_of
from gearhorn.client.results import Position
from gearhorn.errors import GearhornError

REASON_BYTES = 500  # of what a handler raised, that is told
_ID = re.compile(rb"([0-9a-f]{8}):([1-9]\d*):(\d+)\.(\d+)\Z")


class Retry(Exception):
    """Raised in a handler: the attempt failed, and the next one comes after ``after`` seconds.

    It counts as an attempt, and the subscription's ``max_backoff`` is the longest time that is
    heeded. Without ``after`` it is a failed attempt like any other, but without a traceback in the
    log. Raises ``TypeError`` or ``ValueError`` for an ``after`` that is no finite number from 0 on.
    """

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and not (math.isfinite(after) and after >= 0):
            raise ValueError(f"after: {after!r} seconds cannot be waited for")
        self.after = after


class Park(Exception):
    """Raised in a handler: set the message aside, without another attempt.

    It stays until it is redriven or purged (``Admin.parked``), and those behind it go on. A plain
    copy cannot be set aside: there it is a failure like any other.
    """


class BadDelivery(GearhornError):
    """A job on a queue that holds no message as the subscription has them."""


class Id(NamedTuple):
    """The unique id of a durable delivery ("Deliveries" in docs/protocol.rst): ``term`` rises
    whenever another worker delivers, ``number`` with each attempt."""

    epoch: str
    sequence: int
    term: int
    number: int

    @classmethod
    def parse(cls, unique: bytes) -> Id | None:
        """Return what a unique id says, None where it is not that of a durable delivery."""
        match = _ID.match(unique)
        if match is None:
            return None
        return cls(match[1].decode(), int(match[2]), int(match[3]), int(match[4]))


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: ``answer`` where it succeeded, ``reason`` where it failed."""

    answer: bytes = b""
    reason: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the message is acknowledged by it."""
        return self.reason is None

    @classmethod
    def failed(cls, error: BaseException) -> End:
        """Return the end of an attempt that raised; where the exception cannot tell its text, the
        reason is the name of its class."""
        try:
            return cls(reason=_cut(_reason_of(error)))
        except Exception:  # it comes from a __str__ of the application
            return cls(reason=_cut(type(error).__name__))


def _reason_of(error: BaseException) -> str:
    """Return what an attempt fails with; raises what the exception's ``__str__`` does."""
    text = str(error)
    if isinstance(error, Park):
        return f"park: {text or 'the handler parked it'}"
    if isinstance(error, Retry):
        if error.after is not None:
            return f"retry_after: {error.after:g}"
        return _only_a_reason(text or "the handler asks for another attempt")
    name = type(error).__name__
    return _only_a_reason(f"{name}: {text}" if text else name)


def _only_a_reason(text: str) -> str:
    """Return a text that asks the worker for nothing ("What a receiver may ask for" in
    docs/protocol.rst): a reason may begin with any word."""
    return f"failed: {text}" if text.startswith(("park:", "retry_after:")) else text


def _cut(text: str) -> str:
    """Return a text of at most ``REASON_BYTES`` of UTF-8."""
    return text.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


class Ender(Protocol):
    """Takes how the attempt of a message ended."""

    def end(self, message: Message, end: End) -> None:
        """Take it; the second one of a message has no effect."""


class Message:
    """One message for one subscription.

    Attributes:
        topic: what it was published to.
        client_id: whose subscription it is for.
        data: the payload's bytes.
        headers: the texts that travel with it.
        position: where it stands in the topic's log; None where it is a plain copy.
        attempt: which attempt this is, from 1 on.
        at: Unix time at which it was published, 0 where that is not known.
        unique: the id that its publisher gave it.
        expires_at: Unix time after which it is not to be processed any more.
        gap: where a log is read, what was missed before this message (see ``Gap``).
    """

    __slots__ = (
        "_ender", "at", "attempt", "client_id", "data", "expires_at", "gap", "headers", "position",
        "topic", "unique",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        data: bytes,
        *,
        client_id: str = "",
        headers: Mapping[str, str] | None = None,
        position: Position | None = None,
        attempt: int = 1,
        at: float = 0.0,
        unique: str | None = None,
        expires_at: float | None = None,
        gap: Gap | None = None,
        ender: Ender | None = None,
    ) -> None:
        self.topic = topic
        self.client_id = client_id
        self.data = data
        self.headers: Mapping[str, str] = headers or {}
        self.position = position
        self.attempt = attempt
        self.at = at
        self.unique = unique
        self.expires_at = expires_at
        self.gap = gap
        self._ender = ender

    @property
    def text(self) -> str:
        """The payload as text; raises ``UnicodeDecodeError`` where it is none."""
        return self.data.decode()

    def json(self, type: Any = Any) -> Any:
        """Return the payload decoded from JSON into ``type``; raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(self.data, type=type)

    def ack(self, answer: Payload = b"") -> None:
        """The message is processed; ``answer`` goes to a publisher who asks. Raises ``TypeError``
        for an answer that cannot be JSON."""
        self._end(End(bytes_of(answer)))

    def fail(self, reason: str, retry_after: float | None = None) -> None:
        """The attempt failed; the next one comes after ``retry_after`` seconds, where given."""
        asks = None if retry_after is None else f"retry_after: {retry_after:g}"
        self._end(End(reason=_cut(asks or _only_a_reason(reason))))

    def park(self, reason: str) -> None:
        """Set the message aside, without another attempt."""
        self._end(End(reason=_cut(f"park: {reason}")))

    def note_gap(self, gap: Gap) -> None:
        """Something was missed before this message."""
        self.gap = gap

    def _end(self, end: End) -> None:
        if self._ender is not None:
            self._ender.end(self, end)

    def __repr__(self) -> str:
        where = "" if self.position is None else f" {self.position.sequence}"
        return f"<message {self.topic}{where}: {self.data[:40]!r}>"


class Gap(NamedTuple):
    """What a reader of a log has missed before a message.

    ``dropped`` counts messages that the log had forgotten before they were read. ``epoch`` says
    that the log began anew (the store was restarted or replaced): messages at its former end may
    have been lost, and their number is not known.
    """

    dropped: int
    epoch: bool


class _Envelope(msgspec.Struct):
    topic: str
    at: float = 0.0
    sequence: int = 0
    epoch: str = ""
    attempt: int = 1
    unique: str | None = None
    payload: str | None = None
    payload_base64: str | None = None
    headers: dict[str, str] | None = None
    expires_at: float | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_envelopes = msgspec.json.Decoder(list[_Envelope])


def messages_of(
    arguments: bytes, *, topic: str, client_id: str, ender: Ender, is_plain: bool, id: Id | None
) -> list[Message]:
    """Return the messages in a job's arguments: an envelope, an array of them, or plain bytes.

    Which of them it is follows from the subscription, not from the bytes: a payload may look like
    an envelope. Only durable batches are always arrays, and the ``batch`` of a delivery may be an
    earlier one of its subscription ("Durable topics" in docs/protocol.rst). So where there are no
    envelopes an array is taken for a batch only if its first message is the one that ``id`` names.

    Arguments:
        topic, client_id: of the subscription.
        ender: takes how each message ended.
        is_plain: the subscription has no envelopes.
        id: of a durable delivery.

    Raises ``BadDelivery``.
    """
    if is_plain:
        batch = None if id is None else _batch_of(arguments, topic, id)
        if batch is not None:
            return [message_of(envelope, client_id, ender) for envelope in batch]
        position = None if id is None else Position(id.sequence, id.epoch)
        plain = Message(topic, arguments, client_id=client_id, position=position, ender=ender)
        return [plain]
    try:
        if arguments[:1] == b"[":
            envelopes = _envelopes.decode(arguments)
        else:
            envelopes = [_envelope.decode(arguments)]
    except msgspec.DecodeError as error:
        raise BadDelivery(f"not an envelope: {error}") from None
    return [message_of(envelope, client_id, ender) for envelope in envelopes]


def _batch_of(arguments: bytes, topic: str, id: Id) -> list[_Envelope] | None:
    """Return the envelopes of a durable batch; None where the bytes are a payload."""
    if arguments[:1] != b"[":
        return None
    try:
        batch = _envelopes.decode(arguments)
    except msgspec.DecodeError:
        return None
    if not batch or batch[0].sequence != id.sequence:
        return None
    is_ours = all(one.topic == topic and one.epoch[:8] == id.epoch for one in batch)
    return batch if is_ours else None


def message_of(envelope: _Envelope, client_id: str, ender: Ender | None) -> Message:
    """Return the message that an envelope holds."""
    if envelope.payload is not None:
        data = envelope.payload.encode()
    else:
        data = data_of({"payload_base64": envelope.payload_base64})
    position = Position(envelope.sequence, envelope.epoch) if envelope.epoch else None
    return Message(
        envelope.topic,
        data,
        client_id=client_id,
        headers=envelope.headers,
        position=position,
        attempt=envelope.attempt,
        at=envelope.at,
        unique=envelope.unique,
        expires_at=envelope.expires_at,
        ender=ender,
    )


class Fetched(msgspec.Struct):
    """The reply to a fetch ("fetch_fanout" in docs/protocol.rst)."""

    epoch: str
    first: int
    last: int
    messages: list[_Envelope]


_fetched = msgspec.json.Decoder(Fetched)


def fetched_of(reply: bytes) -> Fetched:
    """Return what the reply to a fetch says."""
    return _fetched.decode(reply)
