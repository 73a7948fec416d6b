"""A worker in the test's own process, and how long the turns of its event loop take."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from types import TracebackType
from typing import Any, Self

from gearhorn.broker.broker import Broker
from gearhorn.config import Config
from support.tracing import IS_TRACED

# The longest that a turn of a worker's loop may take, in seconds. A worker that is traced is only
# held to turns that do not grow with all there is.
TURN_S = 1.0 if IS_TRACED else 0.05


class Turns:
    """Measures each call that event loops of this process make, in seconds of its thread's own
    processor time: what else runs on the machine makes no difference. Use as a context."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.what = ""  # was called for so long
        self._run: Any = None

    def reset(self) -> None:
        """Begin anew."""
        self.longest, self.what = 0.0, ""

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()  # what the test itself holds is not the worker's to walk through
        self._run = original = asyncio.events.Handle._run

        def run(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            original(handle)
            took = time.thread_time() - began
            if took > self.longest:
                self.longest, self.what = took, repr(handle)

        asyncio.events.Handle._run = run  # type: ignore[method-assign,assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.events.Handle._run = self._run  # type: ignore[method-assign]
        gc.unfreeze()


class InProcess:
    """A worker on an event loop in a thread of the test. Use as a context."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self.broker = Broker(self._config)
        await self.broker.run(self._stop)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
