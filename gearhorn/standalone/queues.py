"""The job queues of the embedded job server: which jobs wait, which run, by whom and for whom.

A job is in ``Queues.jobs`` from its submission to its end. Meanwhile it either waits, and stands in
its function's ``waiting`` under its priority, or runs, and stands in its worker's ``assigned``;
never in both. Clients that wait for it stand in ``Job.clients``, and the job in their ``awaits``.

Rules: bookkeeping only. No sockets, no threads, no clock and nothing that is sent: ``jobserver.py``
owns one ``Queues``, calls it on its poll thread alone, and tells the connections what came of it.
The rules are gearmand's as seen by any client, without the traps that only lose jobs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

HIGH, NORMAL, LOW = range(3)


class QueueFull(Exception):
    """The function holds as many jobs as ``maxqueue`` allows."""


class FunctionBusy(Exception):
    """The function has workers or running jobs, so it cannot be dropped."""


class Peer:
    """What the queues know of one connection, as a worker and as a client.

    Attributes:
        serves: the functions it takes jobs of, in the order in which it is offered their jobs.
        assigned: the jobs it has in hand, by handle, oldest first.
        awaits: the foreground jobs whose end it is to be told.
        asleep: it wants to be told when one of its functions has work.
        wants_exceptions: an exception reaches it as one, otherwise as a failure.
    """

    def __init__(self) -> None:
        self.serves: OrderedDict[bytes, Function] = OrderedDict()
        self.assigned: dict[bytes, Job] = {}
        self.awaits: set[Job] = set()
        self.asleep = False
        self.wants_exceptions = False

    def sleep(self, is_asleep: bool) -> None:
        """It wants to be told when one of its functions has work, or no more."""
        self.asleep = is_asleep

    def want_exceptions(self) -> None:
        """Tell it of exceptions as such."""
        self.wants_exceptions = True


@dataclass(slots=True, eq=False)
class Job:
    """One job from its submission until it is finished or dropped."""

    handle: bytes
    function: Function
    unique: bytes
    payload: bytes
    priority: int
    key: tuple[bytes, ...] | None  # a later submit with an equal key is the same job
    background: bool = False  # it is to be run even if no client waits for it
    clients: list[Peer] = field(default_factory=list)  # one entry per foreground submit
    worker: Peer | None = None  # it runs there; None: it waits
    deaths: int = 0  # how often its worker gave it back unfinished
    cancelled: bool = False  # while it ran; its clients hear how it ends all the same
    progress: tuple[bytes, bytes] = (b"0", b"0")  # numerator, denominator

    @property
    def wanted(self) -> bool:
        """Whether the job is still to be run: a client waits, or it was submitted in the background
        at least once. gearmand forgets the latter when a client that joined it leaves."""
        return not self.cancelled and (self.background or bool(self.clients))

    def join(self, client: Peer | None) -> None:
        """Another submit asks for it; None: in the background.

        A client that submits it twice stands there twice, and is told of its end twice.
        """
        if client is None:
            self.background = True
        else:
            self.clients.append(client)

    def leave(self, client: Peer) -> None:
        """A client does not wait for it any more."""
        self.clients = [other for other in self.clients if other is not client]

    def cancel(self) -> None:
        """Run it to its end, and not again."""
        self.cancelled, self.background = True, False

    def assign(self, worker: Peer) -> None:
        """It runs there."""
        self.worker = worker
        self.function.runs(1)

    def unassign(self) -> None:
        """It runs no more."""
        self.worker = None
        self.function.runs(-1)

    def die(self) -> int:
        """Its worker gave it back unfinished; return how often that has happened."""
        self.deaths += 1
        return self.deaths

    def release(self) -> None:
        """A later submit with its unique id is a new job."""
        self.key = None

    def advance(self, numerator: bytes, denominator: bytes) -> None:
        """Its worker says how far it is."""
        self.progress = numerator, denominator


class Function:
    """One function: its waiting jobs by priority, its workers, its limits.

    It stays when its last job and worker have gone, as in gearmand, until it is dropped: ``status``
    goes on to list it, and its limits hold.
    """

    __slots__ = ("limits", "name", "running", "waiting", "workers")

    def __init__(self, name: bytes) -> None:
        self.name = name
        # By handle: first in first out, and a job in the middle leaves in O(1).
        self.waiting: tuple[OrderedDict[bytes, Job], ...] = tuple(OrderedDict() for _ in range(3))
        self.running = 0
        self.workers: set[Peer] = set()
        self.limits = (0, 0, 0)  # most jobs, waiting and running, by priority; 0: no limit

    @property
    def total(self) -> int:
        """How many jobs wait or run."""
        return sum(map(len, self.waiting)) + self.running

    def runs(self, jobs: int) -> None:
        """So many more of its jobs run; fewer, where it is negative."""
        self.running += jobs

    def limit(self, high: int, normal: int, low: int) -> None:
        """Let so many jobs wait or run, by priority; 0: no limit."""
        self.limits = high, normal, low


class Queues:
    """All jobs and functions of one job server.

    Arguments:
        prefix: what every handle begins with; unique per start, or a worker that outlived a restart
            could end another client's new job with an old handle.
        attempts: a job is dropped when this many workers died of it; 0: never.

    Attributes:
        functions: by name, in the order of their first use, which is that of ``status``.
        jobs: by handle, oldest first.
    """

    def __init__(self, prefix: bytes, attempts: int = 0) -> None:
        self.functions: dict[bytes, Function] = {}
        self.jobs: dict[bytes, Job] = {}  # by handle
        self._prefix = prefix
        self._attempts = attempts
        self._count = 0
        self._by_key: dict[tuple[bytes, ...], Job] = {}

    # Clients

    def submit(
        self, name: bytes, unique: bytes, payload: bytes, *, priority: int, client: Peer | None
    ) -> Job:
        """Queue a job, or join the one with the same function and unique that waits or runs.

        Arguments:
            name: the function's, which is made if it is new.
            unique: empty: never joins; ``-``: the payload is the unique id, if it is not empty.
            payload: dropped where the job joins another.
            priority: ``HIGH``, ``NORMAL`` or ``LOW``; a job that is joined keeps its own.
            client: who waits for the result; None for a background job.

        Raises QueueFull for a new job over the function's limit; joining always succeeds.
        """
        key = _key(name, unique, payload)
        job = self._by_key.get(key) if key else None
        if job is None:
            job = self._add(name, unique, payload, priority=priority, key=key)
        job.join(client)
        if client is not None:
            client.awaits.add(job)
        return job

    def find(self, unique: bytes) -> Job | None:
        """The oldest job with this unique id that waits or runs, whatever its function; None where
        there is none. All jobs are gone through: only GET_STATUS_UNIQUE asks."""
        return next((job for job in self.jobs.values() if unique and job.unique == unique), None)

    def leave(self, client: Peer) -> None:
        """Forget a client: its waiting jobs go unless others want them; running ones stay.

        gearmand keeps a waiting one until a worker asks for it, and has it swallow later jobs with
        its unique id: that is one of the traps.
        """
        for job in client.awaits:
            job.leave(client)
            if job.worker is None and not job.wanted:
                self._remove(job)
        client.awaits.clear()

    def cancel(self, handle: bytes) -> list[Peer] | None:
        """Withdraw a job and return the clients to be told, or None if there is no such job.

        A waiting job is gone; a running one runs on and is not run again, and its clients are told
        once more when its worker ends it. Its unique id is free at once: a later submit must not
        join a job that is not run again.
        """
        job = self.jobs.get(handle)
        if job is None:
            return None
        if job.worker is None:
            self._remove(job)
        else:
            job.cancel()
            self._release(job)
        return job.clients

    # Workers

    def serve(self, worker: Peer, name: bytes) -> None:
        """Let the worker take jobs of this function; it may be there already."""
        function = self.create(name)
        function.workers.add(worker)
        worker.serves[name] = function

    def unserve(self, worker: Peer, names: Iterable[bytes]) -> tuple[list[Job], list[Job]]:
        """Let the worker take no more jobs of these functions; what it holds of them goes back.

        Returns the jobs that wait again and the jobs that are given up, with clients to be told.
        Jobs go back in reverse order of assignment, to the end of their queues, as in gearmand. One
        that no client wants any more, or that was cancelled, goes without a word.
        """
        gone = {worker.serves.pop(name) for name in list(names) if name in worker.serves}
        for function in gone:
            function.workers.discard(worker)
        returned, given_up = list[Job](), list[Job]()
        for job in reversed(list(worker.assigned.values())):
            if job.function not in gone:
                continue
            self._unassign(job)
            deaths = job.die()
            if not job.wanted:
                self._remove(job)
            elif deaths == self._attempts:
                self._remove(job)
                given_up.append(job)
            else:
                job.function.waiting[job.priority][job.handle] = job
                returned.append(job)
        return returned, given_up

    def take(self, worker: Peer) -> Job | None:
        """Assign the worker its next job; its functions take turns, high goes before normal.

        gearmand serves the function that was registered last until it is empty (``--round-robin``
        changes that); turns starve none, and a worker that relies on neither sees no difference.
        """
        queue = _next(worker)
        if queue is None:
            return None
        handle, job = queue.popitem(last=False)
        worker.serves.move_to_end(job.function.name)
        worker.assigned[handle] = job
        job.assign(worker)
        return job

    def has_work(self, worker: Peer) -> bool:
        """Whether ``take`` would find a job."""
        return _next(worker) is not None

    def finish(self, worker: Peer, handle: bytes) -> Job | None:
        """Remove a job that its worker has ended, and return it with its clients; None if the
        worker does not hold it, for instance because it has ended it before."""
        job = worker.assigned.get(handle)
        if job is not None:
            self._unassign(job)
            self._remove(job)
        return job

    # Functions

    def create(self, name: bytes) -> Function:
        """Return the function of this name, made if it is not there."""
        function = self.functions.get(name)
        if function is None:
            function = self.functions[name] = Function(name)
        return function

    def drop(self, name: bytes) -> list[Job]:
        """Remove a function and return its waiting jobs, with clients to be told.

        Raises KeyError if there is none, FunctionBusy while it has workers or running jobs.
        """
        function = self.functions[name]
        if function.workers or function.running:
            raise FunctionBusy(name)
        jobs = [job for queue in function.waiting for job in queue.values()]
        for job in jobs:
            self._remove(job)
        del self.functions[name]
        return jobs

    # Steps of the above

    def _add(
        self,
        name: bytes,
        unique: bytes,
        payload: bytes,
        *,
        priority: int,
        key: tuple[bytes, ...] | None,
    ) -> Job:
        """Queue a new job; raises QueueFull. The limit counts jobs of all priorities that wait or
        run, and holds for submits of its own priority, as in gearmand."""
        function = self.create(name)
        if 0 < function.limits[priority] <= function.total:
            raise QueueFull(name)
        self._count += 1
        handle = b"%s:%d" % (self._prefix, self._count)
        job = Job(handle, function, unique, payload, priority, key)
        self.jobs[handle] = function.waiting[priority][handle] = job
        if key:
            self._by_key[key] = job
        return job

    def _unassign(self, job: Job) -> None:
        """Take a job from its worker; it stands in no queue until the caller decides."""
        assert job.worker is not None
        del job.worker.assigned[job.handle]
        job.unassign()

    def _release(self, job: Job) -> None:
        """A later submit with the job's unique id is a new job."""
        if job.key:
            self._by_key.pop(job.key, None)
            job.release()

    def _remove(self, job: Job) -> None:
        """Forget a job that does not run; ``job.clients`` still says who is to be told."""
        for client in job.clients:
            client.awaits.discard(job)
        self._release(job)
        job.function.waiting[job.priority].pop(job.handle, None)
        del self.jobs[job.handle]


def _key(name: bytes, unique: bytes, payload: bytes) -> tuple[bytes, ...] | None:
    """What a later submit has to have in common with a job to join it; None: it never does."""
    if unique == b"-":
        return (name, unique, payload) if payload else None
    return (name, unique) if unique else None


def _next(worker: Peer) -> OrderedDict[bytes, Job] | None:
    """The queue whose first job is the worker's next; None where nothing waits for it."""
    for function in worker.serves.values():
        for queue in function.waiting:
            if queue:
                return queue
    return None
