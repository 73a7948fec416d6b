"""The library under faults: every message that was published is accounted for, at its end.

Publishers and subscribers of both faces are processes of their own, which write down what they are
told and what they do. Meanwhile workers, job servers and the store are killed, frozen and restarted
(``support.durable_faults``), and so are the subscribers. At the end the notes are compared:

* every message that was handed over has one result;
* what was *published* was processed by every durable subscription;
* what was *not connected* (nothing was sent) was processed by none;
* of what is *unsure*, or *unavailable*, either may be true;
* what has a ``unique`` is in the log once; without one, a message whose worker died may be there
  twice ("Durable topics" in docs/protocol.rst);
* no process has processed an entry of the log twice, or twice at once: repeats were recognised.

``scripts/soak [SECONDS]`` runs it. It prints what it counted, and returns 1 with what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from support.cluster import Cluster  # noqa: E402
from support.durable_faults import Faults  # noqa: E402
from support.durable_history import DurableHistory  # noqa: E402
from support.lifelines import tied  # noqa: E402
from support.servers import Gearmand  # noqa: E402
from support.switched import SwitchedStore  # noqa: E402

import gearhorn  # noqa: E402
from gearhorn import aio  # noqa: E402

TOPICS = "news", "jobs"
CLIENTS = {"sync1": "sync", "sync2": "sync", "aio1": "aio", "aio2": "aio"}
PUBLISHERS = {"p1": "sync", "p2": "sync", "p3": "aio", "p4": "aio"}
LEASE_S = 2.0
TIMEOUT_S = 5.0  # of a delivery
DURABLE = gearhorn.Durable(timeout=TIMEOUT_S, max_attempts=0, max_backoff=2.0, in_flight=4)
PUBLISH_S = 6.0  # that a publish has
BATCH = 10
PAUSE_S = 0.2, 1.0  # between two publishes, or batches, of one process
FAILS, SLOW = 0.03, 0.003  # of the runs of a handler
SLOW_S = TIMEOUT_S + 1.5  # so that its message comes again while it runs
STALLS_S = 60.0  # without progress: then what is missing at the end does not come
ENDS_S = 40.0
GAP_S = 1.0, 4.0  # between two faults of subscribers
FROZEN_S = 0.5, 8.0
STORE = ("--appendonly", "yes", "--appendfsync", "always")


class Notes:
    """A file of JSON lines, each written at once: a process that is killed loses none."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)

    def add(self, **note: object) -> None:
        """Write a line."""
        self._file.write(json.dumps(note) + "\n")


def fate_of(outcome: object) -> str:
    """Return what a publisher was told: ``published``, or the name of an error."""
    return "published" if isinstance(outcome, gearhorn.Published) else type(outcome).__name__


# Publishers


class Messages:
    """What one publisher publishes: single messages and batches, half of them with a ``unique``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._random = random.Random(name)

    def batch(self) -> list[gearhorn.Outgoing]:
        """Return the next messages: mostly one."""
        return [self._next() for _ in range(1 if self._random.random() < 0.8 else BATCH)]

    def pause_s(self) -> float:
        """Return the seconds until the next ones."""
        return self._random.uniform(*PAUSE_S)

    def _next(self) -> gearhorn.Outgoing:
        self._count += 1
        name = f"{self._name}-{self._count}"
        unique = name if self._random.random() < 0.5 else None
        return gearhorn.Outgoing(self._random.choice(TOPICS), name, unique=unique)


def publish(name: str, servers: Sequence[str], notes: Notes, stop: threading.Event) -> None:
    """Publish with the blocking face until told to stop."""
    messages = Messages(name)
    with gearhorn.Publisher(*servers, timeout=PUBLISH_S) as publisher:
        while not stop.is_set():
            batch = messages.batch()
            outcomes: Sequence[object]
            if len(batch) > 1:
                outcomes = publisher.publish_many(batch)
            else:
                [one] = batch
                try:
                    outcomes = [publisher.publish(one.topic, one.payload, unique=one.unique)]
                except gearhorn.GearhornError as error:
                    outcomes = [error]
            note_outcomes(notes, batch, outcomes)
            stop.wait(messages.pause_s())


async def publish_async(
    name: str, servers: Sequence[str], notes: Notes, stop: threading.Event
) -> None:
    """Publish with the asynchronous face until told to stop."""
    messages = Messages(name)
    async with aio.Publisher(*servers, timeout=PUBLISH_S) as publisher:
        while not stop.is_set():
            batch = messages.batch()
            outcomes: Sequence[object]
            if len(batch) > 1:
                outcomes = await publisher.publish_many(batch)
            else:
                [one] = batch
                try:
                    outcomes = [await publisher.publish(one.topic, one.payload, unique=one.unique)]
                except gearhorn.GearhornError as error:
                    outcomes = [error]
            note_outcomes(notes, batch, outcomes)
            await asyncio.sleep(messages.pause_s())


def note_outcomes(
    notes: Notes, batch: Sequence[gearhorn.Outgoing], outcomes: Sequence[object]
) -> None:
    """Write down what became of messages."""
    for message, outcome in zip(batch, outcomes, strict=True):
        copies = outcome.copies if isinstance(outcome, gearhorn.Published) else None
        notes.add(
            id=message.payload,
            fate=fate_of(outcome),
            copies=copies,
            unique=message.unique is not None,
            text=str(outcome)[:200],
        )


# Subscribers


class Handling:
    """What the handlers of one process do: note, sometimes fail, and sometimes take too long."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._random = random.Random()

    def begin(self, message: gearhorn.Message) -> float:
        """Note that a message is in hand; return the seconds that it takes. Raises what makes the
        attempt fail."""
        self._note("begin", message)
        chance = self._random.random()
        if chance < FAILS:
            self._note("failed", message)
            raise gearhorn.Retry("on purpose", after=0.2) if chance < FAILS / 2 else ValueError("!")
        return SLOW_S if chance < FAILS + SLOW else 0.0

    def end(self, message: gearhorn.Message) -> None:
        """Note that it is processed."""
        self._note("done", message)

    def _note(self, what: str, message: gearhorn.Message) -> None:
        """Write down what happens to a message, by its place in the log."""
        assert message.position is not None
        place = f"{message.topic} {message.position.epoch}:{message.position.sequence}"
        note = {what: message.text, "place": place, "pid": os.getpid(), "attempt": message.attempt}
        self._notes.add(**note)


def subscribe(name: str, servers: Sequence[str], notes: Notes) -> None:
    """Receive with the blocking face until a signal."""
    handling = Handling(notes)
    subscriber = gearhorn.Subscriber(name, *servers, concurrency=4)

    def handle(message: gearhorn.Message) -> None:
        time.sleep(handling.begin(message))
        handling.end(message)

    for topic in TOPICS:
        subscriber.on(topic, durable=DURABLE)(handle)
    subscriber.run()
    notes.add(left=os.getpid())


async def subscribe_async(name: str, servers: Sequence[str], notes: Notes) -> None:
    """Receive with the asynchronous face until a signal."""
    handling = Handling(notes)
    subscriber = aio.Subscriber(name, *servers, concurrency=4)

    async def handle(message: gearhorn.Message) -> None:
        await asyncio.sleep(handling.begin(message))
        handling.end(message)

    for topic in TOPICS:
        subscriber.on(topic, durable=DURABLE)(handle)
    await subscriber.run()
    notes.add(left=os.getpid())


# The run


class Program:
    """A publisher or a subscriber as a process, with its notes."""

    def __init__(self, role: str, name: str, servers: Sequence[str], directory: Path) -> None:
        self._command = [sys.executable, __file__, role, name, str(directory), *servers]
        self._log = directory / f"{name}.log"
        self.notes = directory / f"{name}.notes"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(tied(self._command), stdout=log, stderr=log)

    def restart(self) -> None:
        """Start it anew; it has ended."""
        self.process.wait()
        self.process = self._start()

    def end(self) -> int:
        """Tell it to end, and return its exit status; kill it where it does not."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield its notes. The last one may be cut off by a kill."""
        if self.notes.exists():
            for line in self.notes.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    yield json.loads(line)


class Disturbing(threading.Thread):
    """Kills, freezes and restarts subscribers, one at a time, until stopped.

    The processes are tied to the thread that starts them, which has to outlive them: so this thread
    only signals, and ``mend`` starts those that have ended on the caller's.
    """

    def __init__(self, programs: Sequence[Program], seed: int) -> None:
        super().__init__(daemon=True)
        self.done: Counter[str] = Counter()
        self.unclean: list[str] = []
        self._programs = programs
        self._random = random.Random(seed)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Disturb until stopped."""
        while not self._stopped.wait(self._random.uniform(*GAP_S)):
            program = self._random.choice(self._programs)
            kind = self._random.choice(("killed", "frozen", "restarted"))
            if program.process.poll() is not None:
                continue
            self.done[f"subscriber {kind}"] += 1
            if kind == "killed":
                program.process.kill()
            elif kind == "restarted":
                program.process.terminate()  # a second signal would end it at once
                with suppress(subprocess.TimeoutExpired):
                    program.process.wait(ENDS_S)
            else:
                program.process.send_signal(signal.SIGSTOP)
                self._stopped.wait(self._random.uniform(*FROZEN_S))
                program.process.send_signal(signal.SIGCONT)

    def mend(self) -> None:
        """Start what has ended, and note what has ended in no good way."""
        for program in self._programs:
            status = program.process.poll()
            if status is not None:
                if status not in (0, -signal.SIGKILL, -signal.SIGTERM):
                    self.unclean.append(f"{program.notes.stem} ended with {status}")
                program.restart()

    def stop(self) -> None:
        """Disturb no more."""
        self._stopped.set()
        self.join()


class Soak:
    """One run.

    Arguments:
        directory: for notes and logs.
        seed: of the faults.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        options = ("--lease", str(LEASE_S))
        job_servers = [Gearmand(), Gearmand()]
        store: Any = SwitchedStore(*STORE)  # in the place of a server of the usual kind
        self.cluster = Cluster(job_servers, store, 3, options, is_watched=False)
        servers = [server.address for server in job_servers]
        history = DurableHistory({}, LEASE_S + TIMEOUT_S)
        self.history = history
        self.faults = Faults(self.cluster, history, seed, LEASE_S, TIMEOUT_S)
        self.subscribers = {
            name: Program(f"subscribe-{face}", name, servers, directory)
            for name, face in CLIENTS.items()
        }
        self._await_subscriptions(servers[0])
        self.publishers = {
            name: Program(f"publish-{face}", name, servers, directory)
            for name, face in PUBLISHERS.items()
        }
        self.disturbing = Disturbing(list(self.subscribers.values()), seed)

    def _await_subscriptions(self, server: str) -> None:
        """Wait until each subscription is there: what is published before is not for it."""
        deadline_s = time.monotonic() + ENDS_S
        with gearhorn.Admin(server) as admin:
            while time.monotonic() < deadline_s:
                with suppress(gearhorn.Unknown):
                    found = [set(admin.describe(topic)["subscriptions"]) for topic in TOPICS]
                    if all(clients == set(CLIENTS) for clients in found):
                        return
                time.sleep(0.1)
        raise RuntimeError("not every subscription was made")

    def go(self, seconds: float) -> None:
        """Break things for so long, then let all of it come to an end."""
        self.disturbing.start()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.faults.run_for(min(5.0, until_s - time.monotonic()))
            self.disturbing.mend()
        self.disturbing.stop()
        for program in self.publishers.values():
            status = program.end()
            if status:
                self.disturbing.unclean.append(f"{program.notes.stem} ended with {status}")
        left, since_s = 0, time.monotonic()
        while (now := sum(map(len, self.missing().values()))) and (
            now != left or time.monotonic() < since_s + STALLS_S
        ):
            if now != left:
                left, since_s = now, time.monotonic()
            self.disturbing.mend()
            time.sleep(1)
        time.sleep(2 * TIMEOUT_S)  # for what should not come
        for program in self.subscribers.values():
            status = program.end()
            if status:
                self.disturbing.unclean.append(f"{program.notes.stem} ended with {status}")

    def fates(self) -> dict[str, str]:
        """Return what publishers were told, by message."""
        return {note["id"]: note["fate"] for one in self.publishers.values() for note in one.read()}

    def missing(self) -> dict[str, set[str]]:
        """Return what was published and is not processed, by subscriber."""
        published = {id for id, fate in self.fates().items() if fate == "published"}
        found = {}
        for name, program in self.subscribers.items():
            rest = published - {note["done"] for note in program.read() if "done" in note}
            if rest:
                found[name] = rest
        return found

    def violations(self) -> list[str]:
        """Return what must not have happened."""
        found = list(self.disturbing.unclean)
        fates = self.fates()
        notes = [note["id"] for one in self.publishers.values() for note in one.read()]
        if len(notes) != len(fates):
            found.append(f"{len(notes) - len(fates)} results too many")
        for name, rest in self.missing().items():
            found.append(f"{name} has not processed {len(rest)}: {sorted(rest)[:5]}")
        allowed = {"published", "NotConnected", "Unsure", "TimedOut", "Unavailable", "Busy"}
        found += [f"{id}: {fate}" for id, fate in fates.items() if fate not in allowed]
        for name, program in self.subscribers.items():
            found += self._of_subscriber(name, program, fates)
        return found

    def _of_subscriber(self, name: str, program: Program, fates: dict[str, str]) -> Iterator[str]:
        """Yield what one subscriber should not have done. A process ends its notes where it is
        killed, so what it had in hand then is no second run."""
        running: dict[int, set[str]] = defaultdict(set)
        done: dict[int, set[str]] = defaultdict(set)
        places: dict[str, set[str]] = defaultdict(set)
        for note in program.read():
            if "left" in note:
                if running[note["left"]]:
                    yield f"{name}: {note['left']} left with {running[note['left']]}"
                continue
            pid, place = note["pid"], note["place"]
            if "begin" not in note:
                running[pid].discard(place)
                if "done" in note:
                    done[pid].add(place)
                continue
            places[note["begin"]].add(place)
            if place in running[pid]:
                yield f"{name}: {pid} runs {place} twice at once"
            if place in done[pid]:
                yield f"{name}: {pid} runs {place}, which it has processed"
            if fates.get(note["begin"]) in ("NotConnected", "Busy"):
                yield f"{name}: {note['begin']} was not published: {fates[note['begin']]}"
            running[pid].add(place)
        for id in self._uniques() & places.keys():
            if len(places[id]) > 1:
                yield f"{name}: {id} has a unique, and is in the log at {places[id]}"

    def _uniques(self) -> set[str]:
        """Return the messages that have a ``unique``."""
        notes = (note for one in self.publishers.values() for note in one.read())
        return {note["id"] for note in notes if note["unique"]}

    def counts(self) -> dict[str, object]:
        """Return what there was of everything."""
        notes = [note for program in self.subscribers.values() for note in program.read()]
        done = Counter(note["done"] for note in notes if "done" in note)
        fates = self.fates()
        unsure = [id for id, fate in fates.items() if fate not in ("published", "NotConnected")]
        return {
            "messages": len(fates),
            "results": dict(Counter(fates.values())),
            "of the unsure processed": sum(id in done for id in unsure),
            "runs of handlers": sum("begin" in note for note in notes),
            "failed on purpose": sum("failed" in note for note in notes),
            "processed": sum(done.values()),
            "processed more than once": sum(count > len(CLIENTS) for count in done.values()),
            "processes of subscribers": len({note["pid"] for note in notes if "pid" in note}),
            "faults": dict(Counter(fault.kind for fault in self.history.faults)),
            "faults of subscribers": dict(self.disturbing.done),
        }

    def close(self) -> None:
        """End everything."""
        if self.disturbing.is_alive():
            self.disturbing.stop()
        for program in [*self.publishers.values(), *self.subscribers.values()]:
            program.process.kill()
            program.process.wait()
        self.cluster.close()


def run(seconds: float, seed: int) -> int:
    """Run for so long; return 1 where something was wrong."""
    directory = Path(tempfile.mkdtemp(prefix="gearhorn-soak-"))
    print(f"{seconds:g} s of faults, seed {seed}, notes in {directory}", flush=True)
    soak = Soak(directory, seed)
    try:
        soak.go(seconds)
        for name, value in soak.counts().items():
            print(f"{name:>26}: {value}")
        violations = soak.violations() + soak.faults.crashed()
        soak.faults.keep_logs(directory)
    finally:
        soak.close()
    for violation in violations[:50]:
        print(f"WRONG  {violation}")
    print(f"{'violations':>26}: {len(violations)}")
    return 1 if violations else 0


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says: the whole run, or the part of one process in it."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    if not arguments or not arguments[0].startswith(("publish-", "subscribe-")):
        given = parser.parse_args(arguments)
        return run(given.seconds, given.seed)
    role, name, directory, *servers = arguments
    notes = Notes(Path(directory) / f"{name}.notes")
    stop = threading.Event()
    if role.startswith("publish"):
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if role == "publish-sync":
        publish(name, servers, notes, stop)
    elif role == "publish-aio":
        asyncio.run(publish_async(name, servers, notes, stop))
    elif role == "subscribe-sync":
        subscribe(name, servers, notes)
    else:
        asyncio.run(subscribe_async(name, servers, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
