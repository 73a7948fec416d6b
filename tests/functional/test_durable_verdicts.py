"""Receivers in PHP, in Perl and with gear that say when to try again, or not to; the `gearman`
command, which cannot; and a worker that dies meanwhile."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gear
import pytest
from support.cluster import Cluster, eventually
from support.durable import fail, lane, parked, publish, subscribe
from support.foreign import Raw, find, run_program
from support.gear_receiver import GearReceiver
from support.lifelines import tied
from support.servers import missing

pytest_plugins = ["support.foreign"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gear")

# Each serves QUEUE at HOST PORT and fails every job with what its payload says.
PHP = r"""
[, $host, $port, $queue] = $argv;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction($queue, function (GearmanJob $job) {
    $job->sendWarning($job->workload());
    $job->sendFail();
});
while ($worker->work()) {
}
"""
PERL = r"""
use strict; use warnings; use Gearman::Worker;
my ($host, $port, $queue) = @ARGV;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function($queue => sub {
    my $job = shift;
    $worker->send_work_warning($job, $job->arg);
    return undef;
});
$worker->work while 1;
"""
SHELL = 'cat; echo "park: no such user" >&2; exit 1'
OPTIONS = {"max_attempts": 3, "max_backoff": 0.5}


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


def behave(job: gear.WorkerJob) -> None:
    """Fail with what the payload says, as the programs above do."""
    job.sendWorkWarning(job.arguments)
    job.sendWorkFail()


def command(language: str, address: str, queue: str) -> list[str]:
    """The receiver of a language; the test ends here without it."""
    host, port = address.split(":")
    program = find(language)
    if language == "gearman":
        serve = [program, "-h", host, "-p", port, "-w", "-f", queue]
        return [*serve, "--", "sh", "-c", SHELL]
    if language == "php":
        if run_program([program, "-r", "exit((int) !extension_loaded('gearman'));"]).returncode:
            missing("php-gearman")
        return [program, "-r", PHP, "--", host, port, queue]
    if run_program([program, "-MGearman::Worker", "-e1"]).returncode:
        missing("Perl's Gearman::Worker (libgearman-client-perl)")
    return [program, "-e", PERL, host, port, queue]


@pytest.fixture
def receive(cluster: Cluster) -> Iterator[Callable[[str, str], None]]:
    """Starts receivers: `receive(language, queue)`."""
    with ExitStack() as stack:

        def start(language: str, queue: str) -> None:
            if language == "gear":
                stack.callback(GearReceiver(cluster.address, queue, behave).close)
                return
            process = subprocess.Popen(tied(command(language, cluster.address, queue)))
            stack.callback(process.wait)
            stack.callback(process.kill)

        yield start


@pytest.mark.parametrize("language", ["php", "perl", "gear"])
def test_a_receiver_of_any_language_asks_for_a_time_or_parks(
    raw: Raw, receive: Callable[[str, str], None], topic: str, language: str
) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 3})
    receive(language, f"{topic}_alice")
    began = time.monotonic()
    publish(raw, topic, "park: no such user", "retry_after: 0.1")
    messages = eventually(lambda: (found := parked(raw, topic, "alice"))[1:] and found)
    assert time.monotonic() - began < 4.5, "the usual rests are five seconds together"
    told = [(message["attempts"], message["error"]) for message in messages]
    assert told == [(1, "no such user"), (3, "retry_after: 0.1")]


def test_the_gearman_command_sends_no_warning_and_so_fails_as_ever(
    raw: Raw, receive: Callable[[str, str], None], topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=OPTIONS)
    receive("gearman", f"{topic}_alice")
    publish(raw, topic, "retry_after: 3600")
    [message] = eventually(lambda: parked(raw, topic, "alice"))
    assert (message["attempts"], message["error"]) == (3, "failed")


def test_a_time_outlives_the_worker_that_was_told(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(options=("--lease", "1"))
    with Raw(cluster.address) as raw:
        subscribe(raw, topic, "alice", durable=True)
        publish(raw, topic, "x")
        taker = raw.taker(f"{topic}_alice")
        fail(taker, b"retry_after: 8")
        began = time.monotonic()
        eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
        time.sleep(0.3)  # the store knows it with the next round
        cluster.workers[0].kill()
        cluster.add_worker().ready()
        again = taker.take(30.0)
        assert again.payload == b"x"
        assert time.monotonic() - began >= 7.5
