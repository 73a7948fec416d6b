"""Functions: the Gearman functions that a member serves, and the handler of each one's jobs.

A job arrives with the name of its function, and goes to the handler that ``serve`` has for it. The
names are options, since two installations may share job servers under different names; within one
of them all members have to use the same.

Rules: the only table from a function's name to its handler. A new kind of request is a name here,
an option in ``config``, and a row in one of the tables of ``serve`` (docs/contributing.rst lists
every file to touch).
"""

from __future__ import annotations

from collections.abc import Callable

from gearhorn.broker.describe import Descriptions
from gearhorn.broker.intake import Intake
from gearhorn.config import Config
from gearhorn.durable.fetching import Fetching
from gearhorn.durable.parked import ParkedRequests
from gearhorn.fanout.handler import Fanouts
from gearhorn.gearman.client import WINDOW_COPIES
from gearhorn.gearman.worker import Job
from gearhorn.members.changes import Changes
from gearhorn.requests import REQUEST_BYTES

# How many jobs of each kind a worker has at a time, by weight: a ``fanout`` job weighs as many
# copies as it makes. What is beyond stays with the job server, and is free for other members.
FANOUTS_IN_HAND = 4 * WINDOW_COPIES  # one window on its way, three at hand
CHANGES_IN_HAND = 1024  # two rounds of changes
READS_IN_HAND = 64  # each up to 8 MiB; those that wait for a message are not counted


class Functions:
    """The names of the functions, from the options of ``config``.

    ``register`` is a second name for ``subscribe``, for clients that call it so.
    """

    def __init__(self, config: Config) -> None:
        # the longest payload, where each byte is escaped: "\\u0041" is six for one
        self._fanout_bytes = 8 * config.max_payload + REQUEST_BYTES
        self.fanout = config.fanout_function.encode()
        self.subscribe = config.subscribe_function.encode()
        self.register = config.register_function.encode()
        self.unsubscribe = config.unsubscribe_function.encode()
        self.describe = config.describe_function.encode()
        self.retain = config.retain_function.encode()
        self.fetch = config.fetch_function.encode()
        self.parked = config.parked_function.encode()

    @property
    def all(self) -> frozenset[bytes]:
        """Every function: no receiver's queue may be called like one ("Names" in
        docs/protocol.rst), or copies would come back as requests."""
        return frozenset(
            {
                self.fanout,
                self.subscribe,
                self.register,
                self.unsubscribe,
                self.describe,
                self.retain,
                self.fetch,
                self.parked,
            }
        )

    def serve(
        self,
        intake: Intake,
        *,
        fanouts: Fanouts,
        changes: Changes,
        descriptions: Descriptions,
        fetching: Fetching,
        parked: ParkedRequests,
    ) -> None:
        """Have the jobs of every function taken by ``intake`` and handled by these parts.

        Arguments:
            intake: the connections, in three kinds; it says why there are three.
            fanouts: takes messages.
            changes: takes subscribes, unsubscribes and retains.
            descriptions: tells of members, topics and subscriptions.
            fetching: hands log messages to those who ask for them.
            parked: lists, puts back and purges parked messages.

        Each kind gets one table and one call; their order has no effect. Fan-outs have one function
        and need no table. A handler may answer later than it is called; if it raises,
        ``gearman.worker`` fails the job.
        """
        handlers: dict[bytes, Callable[[Job], None]] = {
            self.describe: descriptions.handle,
            self.retain: changes.retain,
            self.subscribe: changes.subscribe,
            self.register: changes.subscribe,
            self.unsubscribe: changes.unsubscribe,
        }
        intake.serve(
            intake.changes,
            list(handlers),
            lambda job: handlers[job.function](job),
            request_bytes=REQUEST_BYTES,
            in_hand=CHANGES_IN_HAND,
        )
        readers: dict[bytes, Callable[[Job], None]] = {
            self.parked: parked.handle,
            self.fetch: fetching.handle,
        }
        intake.serve(
            intake.readings,
            list(readers),
            lambda job: readers[job.function](job),
            request_bytes=REQUEST_BYTES,
            in_hand=READS_IN_HAND,
        )
        intake.serve(
            intake.fanouts,
            [self.fanout],
            fanouts.handle,
            request_bytes=self._fanout_bytes,
            in_hand=FANOUTS_IN_HAND,
        )
