"""For the tests of programs that use gearhorn: a real one in a second, or none at all.

* ``record(publisher)``: what a program publishes, without a network.
* ``call(subscriber, topic, body)``: what a handler does with a message, without a network.
* ``standalone()``: a job server, a store and a worker as processes, for tests of the whole way.
* Fixtures for pytest: ``gearhorn`` is one that a whole run shares, ``gearhorn_topic`` a topic that
  no other test uses. They are there once gearhorn is installed; nothing is imported before a test
  asks for one.

There is no fake broker: what answers is what answers in production, or the test itself.
``docs/library.rst`` has examples.

Rules: names are imported when they are first used. Neither this nor what it imports needs pytest,
but for ``plugin``, which pytest loads.
"""

import importlib
from typing import Any

_SERVERS = dict.fromkeys(("Aio", "Standalone", "standalone"), "gearhorn.testing.servers")
_RECORDING = dict.fromkeys(("Recording", "Sent", "record"), "gearhorn.testing.recording")
_CALLING = dict.fromkeys(("Outcome", "acall", "call"), "gearhorn.testing.calling")
_ERRORS = {"StandaloneError": "gearhorn.standalone.child"}
_MODULES = {**_SERVERS, **_RECORDING, **_CALLING, **_ERRORS}
__all__ = [*_MODULES]  # noqa: PLE0604  # names, as a list must have


def __getattr__(name: str) -> Any:
    """Return one of the names."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
