"""Perl's Gearman::Client and Gearman::Worker publish, subscribe, receive, and outlive failures."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cluster import Cluster
from support.foreign import PROGRAM_S, find, run_program
from support.lifelines import tied
from support.servers import missing

pytest_plugins = ["support.foreign"]

# Submits the request on stdin and prints what its callbacks are told, one JSON array each. Its end
# is `["end"]`: a client that died on the way does not get there.
CLIENT = r"""
use strict; use warnings; use JSON::PP; use Gearman::Client; $| = 1;
my ($server, $mode, $function) = @ARGV;
my $request = do { local $/; <STDIN> };
sub told { my ($what, @how) = @_; print encode_json([$what, map { "$_" } @how]), "\n" }
my $client = Gearman::Client->new(
    job_servers => [$server], exceptions => $mode eq "exceptions" ? 1 : 0);
if ($mode eq "background") {
    told(defined $client->dispatch_background($function => $request) ? "created" : "refused");
} elsif ($mode eq "do_task") {
    my $result = $client->do_task($function => $request);
    defined $result ? told("result", $$result) : told("nothing");
} else {
    my $tasks = $client->new_task_set;
    $tasks->add_task($function => $request, {
        on_complete  => sub { told("complete", ${$_[0]}) },
        on_fail      => sub { told("fail") },
        on_warning   => sub { told("warning", ref $_[0] ? ${$_[0]} : $_[0]) },
        on_exception => sub { told("exception", $_[0]) },
        on_status    => sub { told("status", @_) },
    });
    $tasks->wait(timeout => 15);
    # the same client goes on working
    my $answer = $client->do_task(fanout => '{"topic": "nobody-listens", "payload": 1}');
    told("after", $$answer);
}
told("end");
"""
# Takes COUNT jobs of QUEUE and prints each payload as a JSON array of base64; what it answers is
# the payload's length, or, told so, a failure.
WORKER = r"""
use strict; use warnings; use JSON::PP; use MIME::Base64; use Gearman::Worker; $| = 1;
my ($server, $queue, $count, $how) = @ARGV;
my $done = 0;
my $worker = Gearman::Worker->new(job_servers => [$server]);
$worker->register_function($queue => sub {
    my $job = shift;
    $done++;
    print encode_json([encode_base64($job->arg, "")]), "\n";
    if ($how eq "data") {
        $worker->send_work_data($job, "some ");
        $job->set_status(1, 2);
    } elsif ($how eq "fail") {
        $worker->send_work_warning($job, "disk full");
        return undef;
    }
    return "length " . length($job->arg);
});
$worker->work(stop_if => sub { $done >= $count });
"""


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


@pytest.fixture(scope="module")
def perl() -> str:
    """The path of perl, which has both modules."""
    path = find("perl")
    for module in ("Gearman::Client", "Gearman::Worker"):
        if run_program([path, f"-M{module}", "-e", "1"]).returncode:
            missing(f"Perl's {module} (libgearman-client-perl)")
    return path


Told = list[list[str]]
Client = Callable[..., Told]


@pytest.fixture
def client(perl: str, cluster: Cluster) -> Client:
    """Runs a request, `client(function, mode="tasks", **request)`, and returns what it was told,
    the end left out."""

    def run(function: str, /, mode: str = "tasks", **request: Any) -> Told:
        command = [perl, "-e", CLIENT, cluster.address, mode, function]
        done = run_program(command, json.dumps(request).encode())
        assert (done.returncode, done.stderr) == (0, b"")
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert told.pop() == ["end"]
        if mode not in ("do_task", "background"):
            assert told.pop() == ["after", "0"]
        return told

    return run


class PerlWorker:
    """A running WORKER."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def payloads(self) -> list[bytes]:
        """Wait for its end; what it was given."""
        output, _ = self._process.communicate(timeout=PROGRAM_S)
        assert self._process.returncode == 0
        return [base64.b64decode(json.loads(line)[0]) for line in output.splitlines()]


@pytest.fixture
def receiver(perl: str, cluster: Cluster) -> Iterator[Callable[..., PerlWorker]]:
    """Starts receivers: `receiver(queue, count, how="")`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(queue: str, count: int, how: str = "") -> PerlWorker:
        command = [perl, "-e", WORKER, cluster.address, queue, str(count), how]
        started.append(subprocess.Popen(tied(command), stdout=subprocess.PIPE))
        return PerlWorker(started[-1])

    yield start
    for process in started:
        process.kill()
        process.communicate()


def subscribe(client: Client, topic: str, *clients: str, **options: Any) -> None:
    """Subscribe clients."""
    for name in clients:
        [[kind, text]] = client("subscribe_fanout", topic=topic, client_id=name, **options)
        assert kind == "complete"
        assert json.loads(text)["queue"] == f"{topic}_{name}"


def test_perl_publishes_in_the_background_and_receives(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice", "bob")
    alice = receiver(f"{topic}_alice", 2)
    told = client("fanout", topic=topic, payload="grüße", background=True)
    assert told == [["complete", "2"]]
    told = client("fanout", mode="do_task", topic=topic, payload=[1, None], background=True)
    assert told == [["result", "2"]]
    expected = ["grüße".encode(), b"[1, null]"]
    assert alice.payloads() == expected
    assert receiver(f"{topic}_bob", 2).payloads() == expected


def test_perl_publishes_in_the_foreground(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice", "bob")
    alice, bob = receiver(f"{topic}_alice", 2), receiver(f"{topic}_bob", 2)
    told = client("fanout", topic=topic, payload="hello")
    assert told[-1] == ["complete", "2"]
    assert told[-2] == ["status", "2", "2"]
    told = client("fanout", mode="do_task", topic=topic, payload="again")
    assert told == [["result", "2"]]
    assert alice.payloads() == bob.payloads() == [b"hello", b"again"]


def test_perl_publishes_as_a_background_job(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice")
    alice = receiver(f"{topic}_alice", 1)
    assert client("fanout", mode="background", topic=topic, payload="x") == [["created"]]
    assert alice.payloads() == [b"x"]


def test_perl_unsubscribes(client: Client, topic: str) -> None:
    subscribe(client, topic, "alice", "bob")
    client("fanout", topic=topic, payload="x", background=True)
    pair = {"topic": topic, "client_id": "alice"}
    [[kind, text]] = client("unsubscribe_fanout", **pair, drain=True)
    assert (kind, json.loads(text)["drained"]) == ("complete", 1)
    assert client("fanout", topic=topic, payload="x", background=True) == [["complete", "1"]]


def test_perls_worker_has_the_unique_id_in_its_envelope(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice", envelope=True)
    alice = receiver(f"{topic}_alice", 3)
    for options in ({"background": True}, {"background": False}):
        told = client("fanout", topic=topic, payload="hello", unique="mine", **options)
        assert told[-1] == ["complete", "1"]
    coded = base64.b64encode(b"\0\xff").decode()
    client("fanout", topic=topic, payload=coded, encoding="base64")
    envelopes = [json.loads(payload) for payload in alice.payloads()]
    assert all(envelope.pop("at") > 0 for envelope in envelopes)
    hello = {"topic": topic, "unique": "mine", "payload": "hello"}
    assert envelopes == [hello, hello, {"topic": topic, "payload_base64": coded}]


def test_perl_has_a_receipt_of_what_its_workers_returned(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice", "bob", "carol", "dave")
    receiver(f"{topic}_alice", 1, "data")
    receiver(f"{topic}_bob", 1)
    receiver(f"{topic}_carol", 1, "fail")
    options = {"receipt": True, "exclude": ["dave"], "quorum": "100%", "timeout": 5}
    payload = base64.b64encode(bytes(range(256))).decode()
    told = client("fanout", topic=topic, payload=payload, encoding="base64", **options)
    kind, text = told[-1]
    assert kind == "complete"
    got = json.loads(text)
    assert got["copies"] == 3
    assert got["failed"] == {"carol": "disk full"}
    assert {"alice": "some length 256", "bob": "length 256"}.items() >= got["results"].items()


def test_perl_has_the_keys_of_a_background_fanout(
    client: Client, receiver: Callable[..., PerlWorker], topic: str
) -> None:
    subscribe(client, topic, "alice", max_backlog=3)
    for payload, options in (
        ("low", {"priority": "low"}),
        ("first", {"unique": "u"}),
        ("coalesces", {"unique": "u"}),
        ("high", {"priority": "high", "exclude": ["bob"]}),
    ):
        told = client("fanout", topic=topic, payload=payload, background=True, **options)
        assert told == [["complete", "1"]]
    told = client("fanout", topic=topic, payload="dropped", background=True)
    assert told == [["complete", "0"]]
    assert receiver(f"{topic}_alice", 3).payloads() == [b"high", b"first", b"low"]


# Failures


@pytest.mark.parametrize("mode", ["tasks", "exceptions"])
@pytest.mark.parametrize(
    ("function", "request_", "code"),
    [
        ("fanout", {"topic": "some"}, "bad_request: payload"),
        ("fanout", {"topic": "__gossip", "payload": "x"}, "reserved: "),
        ("subscribe_fanout", {"topic": "a b", "client_id": "x"}, "bad_name: topic"),
        ("unsubscribe_fanout", {"topic": "", "client_id": "x"}, "bad_name: topic"),
    ],
)
def test_perl_is_told_of_a_refusal_and_lives(
    client: Client, function: str, request_: dict[str, Any], code: str, mode: str
) -> None:
    [[kind, text], *end] = client(function, mode=mode, **request_)
    assert kind == "warning"
    assert text.startswith(code)
    assert end == [["fail"]]


def test_do_task_returns_nothing_of_a_refusal(client: Client) -> None:
    assert client("fanout", mode="do_task", topic="some") == [["nothing"]]


@pytest.mark.parametrize("mode", ["tasks", "exceptions"])
def test_perl_is_told_of_a_timeout_and_lives(client: Client, topic: str, mode: str) -> None:
    subscribe(client, topic, "alice")
    told = client("fanout", mode=mode, topic=topic, payload="x", timeout=0.3)
    assert told[-1] == ["fail"]
    kind, text = told[-2]
    assert kind == "warning"
    assert [name for name, _ in json.loads(text)] == ["alice"]


@pytest.mark.parametrize("mode", ["tasks", "exceptions"])
def test_perl_is_told_of_receivers_that_fail_and_lives(
    cluster: Cluster,
    client: Client,
    receiver: Callable[..., PerlWorker],
    topic: str,
    mode: str,
) -> None:
    # passed on as an exception it would end a client that did not ask for those
    subscribe(client, topic, "alice", "bob")
    receiver(f"{topic}_alice", 1, "fail")
    raising = cluster.receiver(
        f"{topic}_bob", behave=lambda wire, job: wire.exception(job.handle, b"bob too")
    )
    told = client("fanout", mode=mode, topic=topic, payload="x")
    raising.close()
    assert told[-1] == ["fail"]
    kind, text = told[-2]
    assert kind == "warning"
    assert sorted(json.loads(text)) == [["alice", "disk full"], ["bob", "bob too"]]
