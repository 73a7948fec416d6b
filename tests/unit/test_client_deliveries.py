"""Jobs are answered once, repeats without a handler, and batches as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.made_jobs import Made

from gearhorn.client.deliveries import Deliveries, Delivery
from gearhorn.client.message import End
from gearhorn.client.repeats import Repeats
from gearhorn.client.session import Registration
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Info, durable_envelope

EPOCH = "0123456789abcdef"
QUEUE = b"t_web1"


class Held:
    """A ``Runner`` that does nothing by itself."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def run(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)


def soon(what: Callable[..., None], *arguments: Any) -> None:
    what(*arguments)


def body_of(sequence: int, attempt: int) -> Any:
    info = Info(0.0)
    return durable_envelope("t", sequence, EPOCH, attempt=attempt, info=info, payload=b"x")


class Bed:
    def __init__(self, remember: int = 10) -> None:
        self.held = Held()
        self.deliveries = Deliveries(self.held, remember=remember, wake=soon)
        self.deliveries.add(Registration("t", "web1", {}, is_plain=False))

    def take(self, *sequences: int, term: int = 1, n: int = 1) -> Made:
        """Have a delivery come."""
        bodies = [body_of(sequence, n) for sequence in sequences]
        unique = f"{EPOCH[:8]}:{sequences[0]}:{term}.{n}".encode()
        job = Made(QUEUE, encode(bodies if len(bodies) > 1 else bodies[0]), unique=unique)
        self.deliveries.handle(job)
        return job

    def end(self, at: int, end: End = End(b"yes"), message: int = 0) -> None:  # noqa: B008
        delivery = self.held.deliveries[at]
        self.deliveries.end(delivery, delivery.messages[message], end)

    @property
    def counts(self) -> dict[str, int]:
        return {key: value for key, value in vars(self.deliveries.state).items() if value}


def test_a_job_is_answered_when_its_message_has_ended() -> None:
    bed = Bed()
    job = bed.take(1)
    assert job.answers == []
    assert bed.counts == {"in_hand": 1}
    assert not bed.deliveries.is_idle
    bed.end(0)
    bed.end(0, End(reason="twice"))
    assert job.answers == [b"yes"]
    assert bed.counts == {"done": 1}
    assert bed.deliveries.is_idle


@pytest.mark.parametrize(
    ("reason", "count"), [("no", ""), ("retry_after: 2", "retried"), ("park: no", "parked")]
)
def test_a_failed_attempt_is_told_with_its_reason(reason: str, count: str) -> None:
    bed = Bed()
    job = bed.take(1)
    bed.end(0, End(reason=reason))
    assert job.answers == [reason]
    assert bed.counts == {"failed": 1} | ({count: 1} if count else {})


def test_what_was_finished_is_acknowledged_unrun() -> None:
    bed = Bed()
    bed.take(1)
    bed.end(0)
    again = bed.take(1, term=2)
    assert again.answers == [b""]
    assert len(bed.held.deliveries) == 1
    assert bed.counts == {"done": 1, "repeats": 1}


def test_what_failed_runs_again() -> None:
    bed = Bed()
    bed.take(1)
    bed.end(0, End(reason="no"))
    again = bed.take(1, n=2)
    bed.end(1)
    assert again.answers == [b"yes"]


def test_a_lower_term_is_completed_unrun() -> None:
    bed = Bed()
    bed.take(1, term=5)
    late = bed.take(2, term=4)
    assert late.answers == [b""]
    assert bed.counts == {"in_hand": 1, "stale": 1}


def test_a_message_that_still_runs_is_not_run_beside_itself() -> None:
    bed = Bed()
    first, second, third = bed.take(1), bed.take(1, n=2), bed.take(1, n=3)
    assert len(bed.held.deliveries) == 1
    bed.end(0)
    assert [job.answers for job in (first, second, third)] == [[b"yes"]] * 3
    assert bed.counts == {"done": 1}


def test_a_batch_is_done_when_all_of_it_is() -> None:
    bed = Bed()
    job = bed.take(1, 2, 3)
    for message in (2, 0):
        bed.end(0, message=message)
    assert job.answers == []
    bed.end(0, message=1)
    assert job.answers == [b"yes"]
    assert bed.counts == {"done": 3}


def test_a_batch_fails_with_its_first_message_that_does() -> None:
    bed = Bed()
    job = bed.take(1, 2, 3)
    bed.end(0, message=0)
    bed.end(0, End(reason="no"), message=1)
    bed.end(0, message=2)
    assert job.answers == ["no"]
    assert bed.counts == {"done": 1, "failed": 1}
    singles = [bed.take(sequence, n=2) for sequence in (1, 2, 3)]
    assert singles[0].answers == [b""], "it was finished within the batch"
    assert [len(bed.held.deliveries), bed.counts["repeats"]] == [3, 1]


def test_a_batch_of_which_a_part_runs_comes_again() -> None:
    bed = Bed()
    bed.take(1)
    batch = bed.take(1, 2, n=2)
    assert batch.answers == ["a message of this batch is still being processed"]


def test_a_single_message_waits_for_the_batch_in_which_it_runs() -> None:
    bed = Bed()
    batch = bed.take(1, 2)
    single = bed.take(2, n=2)
    bed.end(0, End(reason="no"))
    assert batch.answers == single.answers == ["no"]


def test_what_cannot_be_read_is_a_failed_attempt() -> None:
    bed = Bed()
    bad, long = Made(QUEUE, b"hello"), Made(QUEUE, b"{", oversized=True)
    for job in (bad, long):
        bed.deliveries.handle(job)
    assert "not an envelope" in str(bad.answers[0])
    assert long.answers == ["longer than this subscriber takes"]


def test_by_hand_a_message_is_ended_from_any_thread() -> None:
    bed = Bed()
    job = bed.take(1)
    bed.held.deliveries[0].messages[0].ack("thanks")
    assert job.answers == [b"thanks"]


def test_memory_is_bounded() -> None:
    repeats = Repeats(2)
    for sequence in (1, 2, 3):
        repeats.finish(("q", "e", sequence))
    assert [repeats.has(("q", "e", sequence)) for sequence in (1, 2, 3)] == [False, True, True]
    assert not repeats.has(None)
    repeats.finish(None)
    nothing = Repeats(0)
    nothing.finish(("q", "e", 1))
    assert not nothing.has(("q", "e", 1))
