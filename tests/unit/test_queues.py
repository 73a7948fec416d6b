"""Which jobs of the embedded job server wait, run, are joined, given back and dropped; and the
text commands about them."""

from __future__ import annotations

import pytest

from gearhorn.standalone.commands import Commands
from gearhorn.standalone.queues import FunctionBusy, Job, Peer, QueueFull, Queues


def submit(
    queues: Queues,
    name: bytes = b"f",
    unique: bytes = b"",
    payload: bytes = b"p",
    *,
    priority: int = 1,
    client: Peer | None = None,
) -> Job:
    return queues.submit(name, unique, payload, priority=priority, client=client)


def worker(queues: Queues, *names: bytes) -> Peer:
    peer = Peer()
    for name in names:
        queues.serve(peer, name)
    return peer


def test_high_goes_before_normal_and_first_in_first_out() -> None:
    queues = Queues(b"H")
    jobs = [submit(queues, priority=priority) for priority in (1, 2, 0, 1)]
    peer = worker(queues, b"f")
    taken = [queues.take(peer) for _ in range(5)]
    assert taken == [jobs[2], jobs[0], jobs[3], jobs[1], None]


def test_functions_of_a_worker_take_turns() -> None:
    queues = Queues(b"H")
    for name in (b"a", b"a", b"b", b"b"):
        submit(queues, name)
    peer = worker(queues, b"a", b"b")
    names = [job.function.name for _ in range(4) if (job := queues.take(peer))]
    assert names == [b"a", b"b", b"a", b"b"]
    assert not queues.has_work(peer)


@pytest.mark.parametrize(
    ("first", "second", "is_joined"),
    [
        ((b"u", b"x"), (b"u", b"y"), True),
        ((b"", b"x"), (b"", b"x"), False),
        ((b"-", b"x"), (b"-", b"x"), True),
        ((b"-", b"x"), (b"-", b"y"), False),
        ((b"-", b""), (b"-", b""), False),
    ],
)
def test_a_job_with_the_same_unique_is_joined(
    first: tuple[bytes, bytes], second: tuple[bytes, bytes], is_joined: bool
) -> None:
    queues = Queues(b"H")
    one = submit(queues, unique=first[0], payload=first[1])
    assert (submit(queues, unique=second[0], payload=second[1]) is one) == is_joined


def test_a_job_goes_with_its_last_client_unless_it_is_a_background_one() -> None:
    queues = Queues(b"H")
    alice, bob = Peer(), Peer()
    job = submit(queues, unique=b"u", client=alice)
    submit(queues, unique=b"u", client=bob)
    queues.leave(alice)
    assert queues.jobs == {job.handle: job}
    queues.leave(bob)
    assert queues.jobs == {}
    kept = submit(queues, unique=b"v", client=alice)
    submit(queues, unique=b"v")
    queues.leave(alice)
    assert queues.jobs == {kept.handle: kept}


def test_what_a_lost_worker_had_waits_again_until_it_killed_too_many() -> None:
    queues = Queues(b"H", attempts=2)
    client = Peer()
    job = submit(queues, client=client)
    for returned, given_up in (([job], []), ([], [job])):
        peer = worker(queues, b"f")
        assert queues.take(peer) is job
        assert job.function.running == 1
        assert queues.unserve(peer, [b"f"]) == (returned, given_up)
        assert job.function.running == 0
    assert queues.jobs == {}
    assert job.clients == [client], "to be told"


def test_a_cancelled_job_that_runs_is_run_to_its_end_and_not_again() -> None:
    queues = Queues(b"H")
    client = Peer()
    job = submit(queues, unique=b"u", client=client)
    peer = worker(queues, b"f")
    queues.take(peer)
    assert queues.cancel(job.handle) == [client]
    assert submit(queues, unique=b"u") is not job, "its unique is free"
    assert queues.unserve(peer, [b"f"]) == ([], [])
    assert job.handle not in queues.jobs
    assert queues.cancel(b"unknown") is None


def test_a_full_function_refuses_new_jobs_and_lets_others_join() -> None:
    queues = Queues(b"H")
    queues.create(b"f").limit(0, 1, 1)
    job = submit(queues, unique=b"u")
    with pytest.raises(QueueFull):
        submit(queues)
    assert submit(queues, unique=b"u") is job
    assert submit(queues, priority=0) is not job, "high has no limit"


def test_a_function_in_use_is_not_dropped() -> None:
    queues = Queues(b"H")
    peer = worker(queues, b"f")
    with pytest.raises(FunctionBusy):
        queues.drop(b"f")
    queues.unserve(peer, [b"f"])
    job = submit(queues)
    assert queues.drop(b"f") == [job]
    with pytest.raises(KeyError):
        queues.drop(b"f")


def ask(queues: Queues, line: bytes, failed: list[Job] | None = None) -> bytes:
    told: list[Job] = [] if failed is None else failed
    commands = Commands(queues, lambda: [b"a worker\n"], told.append)
    return b"".join(commands.answer(line.split()))


def test_text_commands_are_answered_as_gearmand_does() -> None:
    queues = Queues(b"H")
    submit(queues, b"f", unique=b"u")
    worker(queues, b"f")
    assert ask(queues, b"STATUS") == b"f\t1\t0\t1\n.\n"
    assert ask(queues, b"workers") == b"a worker\n.\n"
    assert ask(queues, b"show unique jobs") == b"u\n.\n"
    assert ask(queues, b"show jobs").endswith(b"\n.\n")
    assert ask(queues, b"show what").startswith(b"ERR UNKNOWN_SHOW_ARGUMENTS")
    assert ask(queues, b"maxqueue f 5") == b"OK\r\n"
    assert queues.functions[b"f"].limits == (5, 5, 5)
    assert ask(queues, b"maxqueue f 1 2") == b"OK\r\n"
    assert queues.functions[b"f"].limits == (1, 2, 0)
    assert ask(queues, b"maxqueue").startswith(b"ERR INVALID_ARGUMENTS")
    assert ask(queues, b"create function g") == b"OK\r\n"
    assert ask(queues, b"create thing g").startswith(b"ERR INVALID_ARGUMENTS")
    assert b"g" in queues.functions
    assert ask(queues, b"drop function f").startswith(b"ERR there are still connected workers")
    assert ask(queues, b"drop function nothing") == b"ERR function not found\r\n"
    assert ask(queues, b"nonsense").startswith(b"ERR")
    assert ask(queues, b"").startswith(b"ERR")


def test_the_clients_of_jobs_that_a_drop_takes_away_are_told() -> None:
    queues, failed = Queues(b"H"), list[Job]()
    job = submit(queues, b"f", client=Peer())
    assert ask(queues, b"drop function f", failed) == b"OK\r\n"
    assert failed == [job]
