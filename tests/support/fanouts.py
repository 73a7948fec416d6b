"""Fan-outs for tests without any server: what a member shares, and job servers that do as told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.packed import Packed, Packer
from gearhorn.fanout.places import Places
from gearhorn.gearman import packets
from gearhorn.gearman.client import Client
from gearhorn.gearman.link import Connection
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import Submission
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.logs import Logged


class Transport:
    """Takes what is written and forgets it."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


class JobServer:
    """One job server: a real client whose connection goes nowhere, and what it would answer."""

    def __init__(self, name: str) -> None:
        self.client = Client(Server(name), None, b"test", 1 << 20)
        self._handles = 0
        self.up()

    def up(self) -> None:
        """A new session."""
        self.connection = Connection(self.client, 1 << 20)
        self.connection._transport = Transport()  # type: ignore[assignment]
        self.client.connection = self.connection
        self.client.went_up(self.connection)

    def accept(self, count: int) -> list[bytes]:
        """Accept copies; return their handles."""
        first = self._handles + 1
        self._handles += count
        handles = [b"H:%d" % number for number in range(first, first + count)]
        self.connection.flush()
        self.receive(*((packets.JOB_CREATED, handle) for handle in handles))
        return handles

    def refuse(self) -> None:
        """Refuse one copy, for its queue is full."""
        self.connection.flush()
        self.receive((packets.ERROR, b"JOB_QUEUE_FULL\0Job queue is full"))

    def receive(self, *answers: tuple[int, bytes]) -> None:
        """Have the client receive packets."""
        self.connection.flush()
        for kind, body in answers:
            header = b"\0RES" + kind.to_bytes(4) + len(body).to_bytes(4)
            self.connection.data_received(header + body)

    def complete(self, handle: bytes, data: bytes = b"") -> None:
        """A receiver completes a copy."""
        self.receive((packets.WORK_COMPLETE, handle + b"\0" + data))

    def warn(self, handle: bytes, text: bytes) -> None:
        """A receiver, or who discards a copy, says something."""
        self.receive((packets.WORK_WARNING, handle + b"\0" + text))

    def fail(self, handle: bytes) -> None:
        """A copy fails."""
        self.receive((packets.WORK_FAIL, handle))


class Admin:
    """Withdraws what it is told, at once."""

    def __init__(self) -> None:
        self.withdrawn: list[bytes] = []

    async def cancel(self, handles: list[bytes], goes_on: Any) -> None:
        self.withdrawn += handles


class Servers:
    """Job servers as the outbox sees them: queues go to the first that is up, but those that
    ``routes`` sends elsewhere."""

    def __init__(self, count: int, routes: dict[bytes, int]) -> None:
        self.servers = [JobServer(f"server{number}") for number in range(count)]
        self.clients = [server.client for server in self.servers]
        self.admins = [Admin() for _ in self.servers]
        self.sessions = 1
        self.is_up = True
        self._routes = routes
        self._listeners: list[Any] = []

    def on_change(self, listener: Any) -> None:
        self._listeners.append(listener)

    def partition(self, queues: Sequence[bytes]) -> dict[int, list[int]]:
        up = [place for place, client in enumerate(self.clients) if client.is_up]
        parts: dict[int, list[int]] = {}
        for index, queue in enumerate(queues):
            place = self._routes.get(queue, up[0])
            parts.setdefault(place if place in up else up[0], []).append(index)
        return parts

    def submit(self, place: int, submission: Submission) -> None:
        self.clients[place].submit(submission)

    def lose(self, place: int) -> None:
        """A server goes away."""
        server = self.servers[place]
        server.connection.abort("gone")
        server.client.connection = None
        self._changed()
        server.client.went_down(server.connection)

    def find(self, place: int) -> None:
        """It is back."""
        self.servers[place].up()
        self._changed()

    def _changed(self) -> None:
        self.sessions += 1
        self.is_up = any(client.is_up for client in self.clients)
        for listener in self._listeners:
            listener()


class Room:
    """What makes room on full queues: keeps what it is told of those that drop their oldest."""

    def __init__(self) -> None:
        self.held: list[tuple[Any, int]] = []
        self.topics: dict[str, Any] = {}

    @property
    def is_idle(self) -> bool:
        return not self.held

    def is_for(self, subscribers: Subscribers, index: int) -> bool:
        return subscribers.overflow.get(index) == "drop_old"

    def refused(self, held: Any, index: int) -> None:
        self.held.append((held, index))


class Drops:
    """Counts copies as dropped."""

    def __init__(self) -> None:
        self.indexes: list[int] = []

    def dropped(self, subscribers: Subscribers, index: int) -> None:
        self.indexes.append(index)


class Job:
    """What became of a ``fanout`` job."""

    function = b"fanout"
    is_given_back = False

    def __init__(self, arguments: bytes = b"", *, oversized: bool = False) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.parts: list[bytes] = []
        self.is_released = False
        self.oversized = oversized
        self.weight = 1
        self._arguments = arguments

    def take_arguments(self) -> bytes:
        return self._arguments

    def complete(self, data: bytes = b"") -> None:
        self.answers.append(("complete", data))

    def fail(self, text: str | bytes = b"") -> None:
        self.answers.append(("fail", text.encode() if isinstance(text, str) else text))

    def data(self, data: bytes) -> None:
        assert not self.answers, "the job is finished"
        self.parts.append(data)

    def status(self, done: int, total: int) -> None:
        pass

    def release(self) -> None:
        self.is_released = True

    def weigh(self, weight: int) -> None:
        self.weight = weight


class Backlog:
    """Writes down whose backlog is to be read."""

    def __init__(self) -> None:
        self.polled: list[str] = []

    def poll_soon(self, subscribers: Subscribers, directory: Any) -> None:
        self.polled.append(subscribers.topic)
        subscribers.allow(1)


class Waiting:
    """Writes down which fan-outs wait for durable receivers, by topic and sequence."""

    def __init__(self) -> None:
        self.fanouts: dict[tuple[str, int], Any] = {}

    def add(self, topic: str, logged: Logged, fanout: Any) -> None:
        self.fanouts[topic, logged.sequence] = fanout

    def remove(self, topic: str, sequence: int, fanout: Any) -> None:
        self.fanouts.pop((topic, sequence), None)


class Clock:
    """The members' clock, which stands still unless a test sets it."""

    def __init__(self) -> None:
        self.clock_ms = 0


class Bench:
    """An outbox with all of these, and a list of subscribers."""

    def __init__(
        self,
        *clients: str,
        servers: int = 1,
        routes: dict[str, int] | None = None,
        drop_old: Sequence[int] = (),
        places: Places | None = None,
    ) -> None:
        routed = {f"t_{name}".encode(): place for name, place in (routes or {}).items()}
        self.cluster = Servers(servers, routed)
        self.servers = self.cluster.servers
        self.room = Room()
        self.drops = Drops()
        self.backlog = Backlog()
        self.waiting = Waiting()
        self.places = places or Places(1000, 1 << 30)
        self.clock = Clock()
        self.outbox = Outbox(
            self.cluster,  # type: ignore[arg-type]
            backlog=self.backlog,  # type: ignore[arg-type]
            drops=self.drops,  # type: ignore[arg-type]
            overflow=self.room,  # type: ignore[arg-type]
            waiting=self.waiting,  # type: ignore[arg-type]
            places=self.places,
            tag=b"12345678",
            clock=self.clock,
        )
        queues = [f"t_{name}".encode() for name in clients]
        overflow = dict.fromkeys(drop_old, "drop_old")
        self.subscribers = Subscribers("t", queues, enveloped=len(queues), overflow=overflow)


def long_list(topic: str, clients: Sequence[str]) -> Subscribers:
    """A list as a topic with many subscriptions has it: packed."""
    packer = Packer()
    packer.add([client.encode() for client in clients])
    packer.end()
    pages = packer.pages
    packed = Packed(f"{topic}_".encode(), pages, packer.counts, len(pages))
    return Subscribers(topic, packed, enveloped=len(clients))


def message(payload: bytes = b"x", **options: Any) -> Fanout:
    """A message as a request would make it."""
    given: dict[str, Any] = {
        "unique": None,
        "background": False,
        "timeout_s": 600.0,
        "quorum": None,
        "receipt": False,
        "exclude": frozenset(),
        "priority": "normal",
    }
    return Fanout(topic="t", payload=payload, **given | options)
