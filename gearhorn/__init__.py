"""gearhorn: publish once over Gearman, and every subscribed host gets its own copy.

The library's names are here: ``Publisher``, ``Subscriber``, ``Log``, ``Admin`` and what belongs to
them, all of which block; ``gearhorn.aio`` has the same for asyncio. They are imported when they are
first used, since the worker and its parts are in this package too.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SYNC = dict.fromkeys(("Admin", "Log", "Publisher", "Subscriber"), "gearhorn.client.sync")
_VALUES = dict.fromkeys(
    (
        "TLS", "Answer", "Answers", "Batch", "Durable", "Failure", "Functions", "Gap", "Message",
        "Outgoing", "Park", "Position", "Published", "Receipt", "Results", "Retry", "State",
    ),
    "gearhorn.aio",
)  # fmt: skip
_ERRORS = dict.fromkeys(
    (
        "BadName", "BadRequest", "Busy", "Forbidden", "GearhornError", "InternalError",
        "NotConnected", "NotDelivered", "QueueTaken", "RequestError", "Reserved", "TimedOut",
        "TooLarge", "Unavailable", "Unknown", "Unsure",
    ),
    "gearhorn.errors",
)  # fmt: skip
_MODULES = {**_SYNC, **_VALUES, **_ERRORS}
__all__ = [*_MODULES]  # noqa: PLE0604  # names, as a list must have


def __getattr__(name: str) -> Any:
    """Return one of the library's names."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
