"""Findings of ``gearhorn doctor``: what is well, what is not, and what to do about it.

What job servers and members have told is judged here; asking them is ``doctor``'s. A finding says
what is so in its text and what to do in ``todo``. The known faults of a job server are those that
docs/gearmand.rst shows; of a release that was not observed nothing is claimed.

Rules: pure. Findings of one kind are bounded by ``SHOWN``, whatever a cluster has of them; the
others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from gearhorn.cli.commands.servers import Asked, Queue, carrier_of
from gearhorn.cli.commands.topics import kind_of
from gearhorn.names import GOSSIP, MATCHMAKING, splits_of

OK, WARN, FAIL = "ok", "warn", "FAIL"
SHOWN = 20  # findings of one check and level
CLOCK_S = 1.0  # by which clocks may differ
FULL = 100_000  # jobs of one server; many more make gearmand slow
_ENDED = "12 bytes from anyone who reaches its port end it, so keep it off open networks"
_WEDGED = "a receiver that registers with a time-out (CAN_DO_TIMEOUT) can wedge it"
_PLAIN = "Debian's build accepts --ssl and speaks plain text"
FAULTS = {"1.1.20": (_ENDED, _WEDGED, _PLAIN), "2.0.0": (_ENDED,)}  # docs/gearmand.rst
_EMBEDDED = "gear-"  # what the version of the server of --standalone begins with

Member = Mapping[str, Any]


class Finding(NamedTuple):
    """One line. ``check`` names the kind, ``subject`` what it is about."""

    level: str
    check: str
    subject: str
    text: str
    todo: str = ""


class Findings:
    """Keeps findings, of each kind ``SHOWN`` at most."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, finding: Finding) -> None:
        """Keep a finding, or count it where there are enough like it."""
        kind = finding.check, finding.level
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN:
            self._kept.append(finding)

    def has(self, check: str) -> bool:
        """Whether anything was found by a check."""
        return any(kind[0] == check for kind in self._counts)

    @property
    def level(self) -> str:
        """The worst level."""
        levels = {level for _, level in self._counts}
        return next((level for level in (FAIL, WARN) if level in levels), OK)

    def all(self) -> list[Finding]:
        """Return what was kept, and how many there are besides."""
        more = [
            Finding(level, check, "", f"{count - SHOWN:,} more like these")
            for (check, level), count in self._counts.items()
            if count > SHOWN
        ]
        return [*self._kept, *more]


def of_servers(asked: Mapping[str, Asked], members: Collection[Member]) -> Iterator[Finding]:
    """Judge whether each job server is reached, from here and from the members, and its release.

    Arguments:
        asked: what each said here, by its name.
        members: the workers; those that were not heard tell nothing.
    """
    heard = [member for member in members if member.get("servers")]
    for name, answer in sorted(asked.items()):
        users = [member for member in heard if name in member["servers"]]
        cut_off = [member["member"] for member in users if name in member.get("down", ())]
        if answer.error:
            yield _unreached(name, answer.error, has_users=len(users) > len(cut_off))
        else:
            yield from _of_release(name, answer)
        if cut_off:
            yield Finding(
                FAIL,
                "job server",
                name,
                f"{len(cut_off)} of {len(users)} members have no connection to it: "
                f"{', '.join(cut_off[:SHOWN])}",
                "let them reach it: members that see different job servers send the copies of one "
                "queue to several",
            )


def _unreached(name: str, error: str, *, has_users: bool) -> Finding:
    text = f"does not answer here: {error}"
    if has_users:
        todo = "members reach it: open the way from this host, or publish through another server"
        return Finding(WARN, "job server", name, text, todo)
    return Finding(FAIL, "job server", name, text, "start gearmand there, or open the way to it")


def _of_release(name: str, answer: Asked) -> Iterator[Finding]:
    """Judge the release of a server that answers, and how much it holds."""
    faults = FAULTS.get(answer.version.partition("+")[0], ())  # Debian's is 1.1.20+ds
    is_embedded = answer.version.startswith(_EMBEDDED)
    said = f"{answer.version or 'of no known release'}, answers in {answer.seconds * 1000:.1f} ms"
    if faults:
        said += f"; known faults: {'; '.join(faults)}"
    if faults or is_embedded:
        yield Finding(OK, "job server", name, said)
    else:
        known = " and ".join(FAULTS)
        todo = f"try it before you rely on it: gearhorn was tested with {known}"
        yield Finding(WARN, "job server", name, said, todo)
    total = sum(queue.total for queue in answer.queues.values())
    if total >= FULL and not is_embedded:
        yield Finding(
            WARN,
            "job server",
            name,
            f"{total:,} jobs wait or run, which makes gearmand slow with its default settings",
            "start gearmand with --hashtable-buckets=1000003, and see why they are not taken",
        )


def of_members(members: Collection[Member]) -> Iterator[Finding]:
    """Judge how the workers are, and whether they agree on job servers and on a release."""
    states = Counter(member["state"] for member in members)
    for member in members:
        name = member["member"]
        if member["state"] == "isolated":
            todo = "look at its log, and whether it reaches the store and every job server"
            yield Finding(FAIL, "members", name, "holds no lease, or hears no other member", todo)
        elif member["state"] == "unknown":
            todo = "ask again in some seconds; if it stays so, look at its log"
            yield Finding(WARN, "members", name, "has not been heard yet", todo)
    if not states["isolated"] + states["unknown"]:
        said = ", ".join(f"{count} {state}" for state, count in states.items())
        yield Finding(OK, "members", "", said)
    yield from _of_lists(members)
    releases = {member["release"] for member in members if member.get("release")}
    if len(releases) > 1:
        todo = "finish the upgrade: members of two releases work together for its time only"
        yield Finding(WARN, "members", "", f"are of releases {', '.join(sorted(releases))}", todo)


def _of_lists(members: Collection[Member]) -> Iterator[Finding]:
    lists = {tuple(sorted(member["servers"])) for member in members if member.get("servers")}
    if len(lists) > 1:
        said = " / ".join(sorted(" ".join(one) for one in lists)[:SHOWN])
        todo = "start every worker with the same names: copies of one queue go to several servers"
        yield Finding(FAIL, "members", "", f"have different job servers: {said}", todo)
    elif lists:
        yield Finding(OK, "members", "", "agree on the job servers")


def of_clocks(members: Collection[Member], here_s: float) -> Iterator[Finding]:
    """Judge the clocks.

    Arguments:
        members: the workers; ``ahead`` is told by the one that answered, which is the first.
        here_s: seconds by which this host's clock is ahead of that one's.
    """
    apart = {"this host": here_s} | {one["member"]: one.get("ahead", 0.0) for one in members}
    wrong = {name: seconds for name, seconds in apart.items() if abs(seconds) > CLOCK_S}
    for name, seconds in wrong.items():
        how = "ahead of" if seconds > 0 else "behind"
        text = f"{abs(seconds):.1f} s {how} the worker that answered"
        todo = "run chrony or another NTP client on both hosts"
        yield Finding(WARN, "clocks", name, text, todo)
    if not wrong:
        yield Finding(OK, "clocks", "", f"differ by less than {CLOCK_S:g} s")


def of_store(members: Collection[Member]) -> Iterator[Finding]:
    """Judge how well the store keeps what it is given, as the member tells that answered."""
    state = next((member["store"] for member in members if member.get("store")), None)
    if state is None:
        todo = "ask again in some seconds; workers of an earlier release do not tell"
        yield Finding(WARN, "store", "persistence", "no member tells how the store is set", todo)
        return
    if state["fails"]:
        todo = "look at its log: the disk may be full"
        yield Finding(FAIL, "store", "persistence", "its last write to disk has failed", todo)
    elif not state["append_only"]:
        text = (
            "a restart brings back the last snapshot, if any: subscriptions and messages get lost"
        )
        yield Finding(WARN, "store", "persistence", text, "set appendonly yes")
    else:
        yield Finding(OK, "store", "persistence", "each write goes to a file (appendonly)")
    if state["evicts"]:
        text = f"forgets keys when its memory is full ({state['evicts']}), subscriptions with them"
        yield Finding(FAIL, "store", "eviction", text, "set maxmemory-policy noeviction")
    else:
        yield Finding(OK, "store", "eviction", "none of gearhorn's keys may be forgotten")
    yield _of_replicas(state["replicas"], state["min_replicas"])


def _of_replicas(count: int, has_minimum: bool) -> Finding:
    if not count:
        text, todo = "none: if its host is lost, everything is", "connect a replica"
        return Finding(WARN, "store", "replicas", text, todo)
    if not has_minimum:
        text = f"{count}; a fail-over loses what they do not have yet"
        return Finding(WARN, "store", "replicas", text, "set min-replicas-to-write 1")
    return Finding(OK, "store", "replicas", f"{count}, and min-replicas-to-write is set")


class Queues:
    """Judges the queues of all subscriptions, which are given one after the other.

    Nothing is kept of a subscription that is well. Queues that may be dead are those that hold jobs
    and have no receiver; each subscription takes its own out, and what is left belongs to none.

    Arguments:
        servers: what the members' job servers said, by name. Those that do not answer are left out:
            the members send elsewhere while they are down.
        members: the workers, whose own queues are not judged.
        findings: are added to.
    """

    def __init__(
        self, servers: Mapping[str, Asked], members: Collection[Member], findings: Findings
    ) -> None:
        self._up = {name: asked for name, asked in servers.items() if not asked.error}
        self._findings = findings
        self._own = {f"{kind}_{one['member']}" for kind in (GOSSIP, MATCHMAKING) for one in members}
        self._left = {
            (name, queue)
            for name, asked in self._up.items()
            for queue, jobs in asked.queues.items()
            if jobs.total and not jobs.receivers
        }
        self.count = 0

    def see(self, topic: str, client: str, subscription: Mapping[str, Any]) -> None:
        """Judge one subscription."""
        self.count += 1
        queue = subscription["queue"]
        durable = subscription.get("durable") or {}
        stuck = [name for name in self._up if (name, queue) in self._left]
        self._left.difference_update((name, queue) for name in stuck)
        for name, asked in self._up.items():
            if queue in asked.hosts:
                self._add(
                    WARN,
                    "hosts",
                    topic,
                    client,
                    f"is served from {' and '.join(asked.hosts[queue])}, and each message goes to "
                    f"one of them (at {name})",
                    todo="give each host a client_id of its own, unless they share the work",
                )
                break
        if kind_of(durable) == "pull" or durable.get("paused") or not self._up:
            return
        self._see_receivers(topic, client, queue, stuck=stuck, lag=durable.get("lag", 0))

    def _see_receivers(
        self, topic: str, client: str, queue: str, *, stuck: list[str], lag: int
    ) -> None:
        """Judge whether what was sent to a queue is taken, and what will be: at its carrier."""
        carrier = carrier_of(queue, list(self._up))
        is_served = self._up[carrier].queues.get(queue, Queue(0, 0, 0)).receivers > 0
        todo = f"start one, or: gearhorn unsubscribe {topic} {client}"
        if elsewhere := [name for name in stuck if name != carrier]:
            waiting = sum(self._up[name].queues[queue].total for name in elsewhere)
            text = f"{waiting:,} jobs wait at {', '.join(elsewhere)}, where it has no receiver"
            connect = "connect its receivers to every job server"
            self._add(FAIL, "receivers", topic, client, text, todo=connect)
        if is_served:
            return
        waiting = self._up[carrier].queues[queue].total if carrier in stuck else 0
        if waiting or lag:
            what = f"{waiting:,} jobs wait" if waiting else f"{lag:,} messages are due"
            text = f"{what}, and no receiver is at {carrier}"
            self._add(FAIL, "receivers", topic, client, text, todo=todo)
        else:
            self._add(WARN, "receivers", topic, client, f"no receiver is at {carrier}", todo=todo)

    def finish(self) -> None:
        """Judge what is left, and say what is well."""
        for name, queue in sorted(self._left):
            if queue not in self._own and (pair := self._pair(queue)):
                jobs = f"{self._up[name].queues[queue].total:,} jobs wait at {name}"
                text = f"{jobs}, and neither a subscription nor a receiver is there for them"
                todo = f"if it was a subscription's: gearhorn drain {pair}"
                self._findings.add(Finding(WARN, "dead queues", queue, text, todo))
        well = {
            "receivers": f"each of {self.count:,} subscriptions has one",
            "hosts": "no client_id is served from two",
            "dead queues": "none",
        }
        for check, text in well.items() if self._up else ():
            if not self._findings.has(check):
                self._findings.add(Finding(OK, check, "", text))

    @staticmethod
    def _pair(queue: str) -> str:
        """Return a topic and a client_id that make this queue, as they are typed; empty where it
        can be no subscription's: it belongs to another application, or to a member that is gone and
        is emptied by the others."""
        pairs = list(splits_of(queue.encode()))
        return " ".join(pairs[0]) if pairs and not queue.startswith("__") else ""

    def _add(
        self, level: str, check: str, topic: str, client: str, text: str, *, todo: str
    ) -> None:
        self._findings.add(Finding(level, check, f"{topic}/{client}", text, todo))
