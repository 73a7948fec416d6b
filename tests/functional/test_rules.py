"""A history is right while a rule between workers holds, and wrong when it is switched off."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from unittest.mock import patch

import pytest
from support import without
from support.cluster import Cluster, eventually
from support.trial import TOPIC, Trial

from gearhorn.gearman.drain import _Drain, drain
from gearhorn.gearman.server import Server

MakeCluster = Callable[..., Cluster]


def answers(trial: Trial) -> None:
    """A peer says that it has dropped its list."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    changer.change("bob").finish()
    peer.publish().finish()
    changer.change("alice", False).finish()
    peer.publish().finish()


def catch_up(trial: Trial) -> None:
    """A peer is never told, and renews its lease."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    change, _, _ = peer.intercept(lambda: changer.change("bob"))
    peer.worker.thaw()
    change.finish()
    peer.publish().finish()


def lapse(trial: Trial) -> None:
    """A peer is never told, and loses the store."""
    proxy = trial.proxy()
    changer, peer = trial.member(), trial.member(proxy)
    changer.change("alice").finish()
    peer.publish().finish()
    proxy.hold()
    change, _, _ = peer.intercept(lambda: changer.change("bob"))
    peer.worker.thaw()
    change.finish()
    message = peer.publish()
    try:
        message.finish(0.5)
    except TimeoutError:
        proxy.release()
        message.finish()


def emptied(trial: Trial) -> None:
    """A peer is frozen for longer than its lease, removed, and comes back."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    peer.worker.freeze()
    changer.change("bob").finish()
    eventually(lambda: "member removed" in changer.worker.log())
    eventually(lambda: not trial.waiting(peer.queue), what="its messages are not drained")
    peer.worker.thaw()
    eventually(lambda: peer.worker.log().count("event=joined") >= 2)
    peer.publish().finish()


def read(trial: Trial) -> None:
    """A topic changes while a peer reads its list."""
    proxy = trial.proxy()
    changer, peer = trial.member(), trial.member(proxy)
    changer.change("alice").finish()
    proxy.hold(b"alice")
    early = peer.publish()
    eventually(lambda: b"alice" in proxy.said)
    changer.change("bob").finish()
    late = peer.publish()
    proxy.release()
    early.finish()
    late.finish()
    peer.publish().finish()


def repeat(trial: Trial) -> None:
    """A subscribe is made again at another member while the first one has not told a peer."""
    changer, peer, other = trial.member(), trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    _, thief, message = peer.intercept(lambda: changer.change("bob"))
    thief.fail(message)
    thief.close()
    peer.worker.thaw()
    other.change("bob").finish()
    peer.publish().finish()


def replaced(trial: Trial) -> None:
    """The store comes back empty, and nobody there knows a peer that has a list and a lease."""
    changer, peer = trial.member(), trial.member()
    peer.publish().finish()
    trial.cluster.store.kill()
    trial.cluster.store.restart()
    trial.finish(changer.change("bob"))
    peer.publish().finish()


def drained_copy(trial: Trial) -> None:
    """A copy that a foreground caller waits for is drained."""
    member = trial.member()
    member.change("alice").finish()
    message = member.publish(background=False)
    eventually(lambda: trial.waiting(trial.queue("alice")))
    member.change("alice", False, drain=True).finish()
    message.finish()


def drained_message(trial: Trial) -> None:
    """A message to a living peer is drained."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    peer.worker.freeze()
    change = changer.change("bob")
    eventually(lambda: trial.waiting(peer.queue))
    host, _, port = trial.cluster.address.rpartition(":")
    discard = without.complete if trial.rule else _Drain._discard
    with patch.object(_Drain, "_discard", discard):
        asyncio.run(drain([Server(host, int(port))], None, peer.queue.encode()))
    trial.finish(change)
    peer.worker.thaw()
    peer.publish().finish()


def another_pattern(trial: Trial) -> None:
    """The set of patterns changes."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    changer.change("bob", name=" >").finish()
    peer.publish().finish()
    changer.change("bob", False, name=" >").finish()
    changer.change("carol", name=" >").finish()
    peer.publish().finish()


PATTERN = " *"  # that matches the topic
BOTH = [
    # (what happens, rule, lease in s: 60 where no renewal may come between)
    (answers, "answers", 60),
    (catch_up, "catch_up", 3),
    (lapse, "lapse", 1),
    (emptied, "emptied", 1),
    (read, "read", 60),
    (repeat, "repeat", 60),
    (replaced, "settled", 60),
    (drained_copy, "drain", 60),
    (drained_message, "drain", 60),
]
OF_PATTERNS = [
    (answers, "match", 60),
    (answers, "part", 60),
    (catch_up, "catch_up_match", 3),
    (read, "overtake", 60),
    (another_pattern, "word", 60),
]
SCENARIOS = [
    *((*one, TOPIC) for one in BOTH),
    *((*one, PATTERN) for one in (*BOTH, *OF_PATTERNS)),
]


@pytest.mark.parametrize(
    ("scenario", "rule", "lease_s", "name", "is_off"),
    [(*one, is_off) for one, is_off in itertools.product(SCENARIOS, (False, True))],
    ids=[
        f"{one[0].__name__}-{one[1]}-{'topic' if one[3] == TOPIC else 'pattern'}-{how}"
        for one, how in itertools.product(SCENARIOS, ("holds", "off"))
    ],
)
def test_a_history_is_right_while_the_rule_holds_and_wrong_without_it(
    make_cluster: MakeCluster,
    scenario: Callable[[Trial], None],
    rule: str,
    lease_s: float,
    name: str,
    is_off: bool,
) -> None:
    with Trial(make_cluster(workers=0), rule if is_off else None, lease_s, name) as trial:
        scenario(trial)
        assert bool(trial.violations()) == is_off
