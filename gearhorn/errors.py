"""The errors of gearhorn: what a caller is told, by its stable code.

They are listed in docs/protocol.rst, "Requests, replies, errors".

Rules: no sockets, no threads, no imports but the standard library. A ``RequestError`` is
a caller's bad request and is answered; everything else is gearhorn's to handle.
"""

from typing import Any


class GearhornError(Exception):
    """Base of every error that gearhorn raises on purpose. Any other is a fault in gearhorn, but
    for ``OSError`` of connections, which ``gearman`` documents where it lets one out."""


class NotConnected(GearhornError):
    """No job server could be reached in time. Nothing was sent."""


class Unsure(GearhornError):
    """The request was sent and the reply is lost: it may have been carried out, or will be."""


class TimedOut(Unsure):
    """The request was sent and no reply came in time: it may still be carried out."""


class NotDelivered(GearhornError):
    """Fewer receivers than asked for have processed a message; ``receipt`` says which."""

    def __init__(self, text: str, receipt: Any) -> None:
        super().__init__(text)
        self.receipt = receipt  # a ``Receipt`` of the library, which this module does not know


class RequestError(GearhornError):
    """A request that is refused; ``str(error)`` is ``CODE: TEXT`` as sent to the caller.

    The code is a promise: callers compare it. The text is for people, and may change.
    """

    code = "bad_request"

    @property
    def text(self) -> str:
        """What was expected and what came instead, without the code."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


class BadRequest(RequestError):
    """Not JSON, not an object, or a key that is missing or of the wrong type or range."""


class BadName(RequestError):
    """A topic or client_id that the rules of names do not allow."""

    code = "bad_name"


class Reserved(RequestError):
    """A topic, queue or function name that gearhorn keeps for itself."""

    code = "reserved"


class QueueTaken(RequestError):
    """Another (topic, client_id) pair owns the queue of this name."""

    code = "queue_taken"


class TooLarge(RequestError):
    """Over ``--max-payload`` or ``--max-fanout-bytes``."""

    code = "too_large"


class Busy(RequestError):
    """As many foreground fan-outs, or fetches, wait as may."""

    code = "busy"


class Unavailable(RequestError):
    """The store cannot be reached or refuses the write."""

    code = "unavailable"


class Unknown(RequestError):
    """A topic, subscription or log that there is not."""

    code = "unknown"


class Forbidden(RequestError):
    """The caller may not do this."""

    code = "forbidden"


class InternalError(RequestError):
    """A fault in gearhorn itself; the caller is told no more than that."""

    code = "internal"

    def __str__(self) -> str:
        return "internal error"


def refusal_of(text: str) -> RequestError:
    """Return the error that a worker's refusal stands for ("Requests, replies, errors" in
    docs/protocol.rst)."""
    code, separator, rest = text.partition(": ")
    kind = _BY_CODE.get(code) if separator else None
    return InternalError(text) if kind is None else kind(rest)


_BY_CODE: dict[str, type[RequestError]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        BadName,
        Reserved,
        QueueTaken,
        TooLarge,
        Busy,
        Unavailable,
        Unknown,
        Forbidden,
    )
}


class ProtocolError(GearhornError):
    """A peer sent bytes that are not the Gearman protocol."""


class StoreError(GearhornError):
    """The store cannot serve now: unreachable, loading, busy. Nothing was carried out: wait, and
    ask again. The text is the store's own where it answered."""


class StoreUnanswered(StoreError):
    """What was asked is on its way and the reply is not there: it may have been carried out, or
    will be. Only what may happen twice can simply be asked again."""


class StoreReplaced(StoreError):
    """The store was restarted or replaced since what is at hand was read; nothing was asked."""


class StoreReadOnly(StoreError):
    """The server is no primary any more, or has not the namespace's slot. Every connection to the
    store is closed already, and the next ones look for the primary anew: wait, and ask again."""


class StoreNoWrites(StoreError):
    """The store answers and reads go on, but it takes no writes now (memory, disk, replicas):
    refuse the request that needs one, and serve the others."""


class StoreRefused(StoreError):
    """The store answers, and refuses this very command because of what its keys hold: refuse this
    topic, and serve the others. Waiting does not help; an operator has to repair the key."""


class StartError(GearhornError):
    """The worker cannot start, and waiting would not help. The command prints it and ends."""
