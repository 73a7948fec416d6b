"""Recording: a publisher that sends nothing, and tells what it would have sent.

Theory of operation. The recording is an observer of the publisher's requests, and answers each of
them itself. What a worker looks at before it asks anybody else, its own code looks at here: what is
no message, or no topic, is refused as a worker would refuse it. What depends on others (who is
subscribed, whether a queue is full) is not known, and not made up: a message has one copy, and
nobody has answered a question, unless the test says what happens.

Rules: no network, no thread. Safe from any thread, since a blocking publisher is observed on the
library's own event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from gearhorn import aio
from gearhorn.client import sync
from gearhorn.client.many import Outgoing
from gearhorn.client.observers import Exchange, Operation
from gearhorn.client.payloads import Payload, Request, bytes_of, is_of, json_of
from gearhorn.config import Config
from gearhorn.errors import GearhornError, RequestError
from gearhorn.messages.codec import as_text, encode
from gearhorn.messages.fanout import Fanout, decode_fanout
from gearhorn.names import check_publish

MAX_PAYLOAD = Config().max_payload  # what a worker takes where its operator says nothing else


@dataclass(frozen=True, eq=False)
class Sent:
    """One message as it would have been sent.

    It equals a pair of topic and payload, and an ``Outgoing``, of which everything is compared.
    Texts and bytes are compared as bytes, other payloads as what JSON makes of them.

    Attributes:
        operation: "publish", "deliver" or "ask".
        topic: what it was published to.
        payload: its bytes.
        unique: the id that it was given.
        headers: the texts that travel with it, names in lower case as receivers see them.
        exclude: client_ids that get no copy.
        priority: "low", "normal" or "high".
        expires: seconds after which it is not to be processed any more.
    """

    operation: Operation
    topic: str
    payload: bytes
    unique: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    priority: str = "normal"
    expires: float | None = None

    @classmethod
    def of(cls, operation: Operation, message: Fanout) -> Self:
        """Return what a worker has made of a request."""
        return cls(
            operation,
            message.topic,
            message.payload,
            message.unique,
            message.headers or {},
            message.exclude,
            message.priority,
            message.expires_s or None,
        )

    @property
    def text(self) -> str:
        """The payload as text; raises ``UnicodeDecodeError`` where it is none."""
        return self.payload.decode()

    def json(self, type: Any = Any) -> Any:
        """Return the payload decoded from JSON; raises ``msgspec.DecodeError``."""
        return json_of(self.payload, type)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sent):
            return all(getattr(self, name) == getattr(other, name) for name in self._names())
        if isinstance(other, Outgoing):
            named = {name.lower(): text for name, text in (other.headers or {}).items()}
            rest = (other.unique, named, frozenset(other.exclude), other.priority, other.expires)
            if rest != (self.unique, self.headers, self.exclude, self.priority, self.expires):
                return False
        elif not isinstance(other, tuple) or len(other) != 2:
            return NotImplemented
        return self.topic == other[0] and is_of(self.payload, other[1])

    __hash__ = None  # type: ignore[assignment]  # it equals things of other types

    def _names(self) -> Sequence[str]:
        return list(self.__dataclass_fields__)


class _Answered:
    """A request that is answered here; an ``Exchange``."""

    def __init__(self, request: Request, reply: bytes | GearhornError) -> None:
        self.request = request
        self.reply = reply

    def ended(self, outcome: object) -> None:
        """There is nothing to be done."""


class Recording(Sequence[Sent]):
    """What a publisher would have sent, in order: compare it with a list.

    ``with`` ends it, so that the publisher sends again. Made by ``record``.

    Attributes:
        refused: messages that were refused: those that a worker would not take, and those of
            ``refuse_next``. They are not among the sent ones.
    """

    def __init__(self, publisher: sync.Publisher | aio.Publisher) -> None:
        self._publisher = publisher
        self._sent: list[Sent] = []
        self.refused: list[Sent] = []
        self._errors: deque[GearhornError] = deque()
        self._answers: deque[Mapping[str, Payload]] = deque()
        publisher.observe(self)

    def refuse_next(self, error: GearhornError) -> None:
        """Have the next message come to an error: ``Busy("too many")``, ``Unsure("…")``.

        It is raised at once, without the attempts that ``publish`` makes by itself. Said more than
        once, it is about as many messages.
        """
        self._errors.append(error)

    def answer_next(self, answers: Mapping[str, Payload]) -> None:
        """Say what hosts answer to the next message that is delivered or asked, by client_id.
        Otherwise there is no host that could answer."""
        self._answers.append(answers)

    def clear(self) -> None:
        """Forget what was sent and refused so far."""
        self._sent.clear()
        self.refused.clear()

    def close(self) -> None:
        """Have the publisher send again; what was recorded stays."""
        self._publisher.unobserve(self)

    def requested(self, operation: Operation, request: Request) -> Exchange:
        """Record a request, and answer it."""
        try:
            message = decode_fanout(encode(request), MAX_PAYLOAD)
            check_publish(message.topic)
        except RequestError as error:
            return _Answered(request, error)
        sent = Sent.of(operation, message)
        if self._errors:
            self.refused.append(sent)
            return _Answered(request, self._errors.popleft())
        self._sent.append(sent)
        if operation == "publish":
            return _Answered(request, b'{"copies": 1}' if request.receipt else b"1")
        return _Answered(request, _receipt(self._answers.popleft() if self._answers else {}))

    def __getitem__(self, index: Any) -> Any:
        return self._sent[index]

    def __len__(self) -> int:
        return len(self._sent)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return self._sent == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._sent)


def _receipt(answers: Mapping[str, Payload]) -> bytes:
    """Return the reply to a request that these hosts have answered ("Receipt" in
    docs/protocol.rst)."""
    texts: dict[str, dict[str, object]] = {"payload": {}, "payload_base64": {}}
    for client_id, answer in answers.items():
        for key, value in as_text(bytes_of(answer)).items():
            texts[key][client_id] = value
    results = {"results": texts["payload"], "results_base64": texts["payload_base64"]}
    return encode({"copies": len(answers), "delivered": list(answers), **results})


def record(publisher: sync.Publisher | aio.Publisher) -> Recording:
    """Have a publisher send nothing from here on; return what records its messages instead.

    Arguments:
        publisher: of either face; it may be one that was made where no server is.
    """
    return Recording(publisher)
