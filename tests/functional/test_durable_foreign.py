"""Receivers of durable subscriptions in PHP, in Perl and with the `gearman` command: plain workers
that know nothing of gearhorn."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.foreign import find, run_program
from support.lanes import lane, publish, subscribe
from support.lifelines import tied
from support.servers import missing

pytest_plugins = ["support.foreign"]

# Each serves QUEUE at HOST PORT, fails its second job, and adds a line to FILE for every job: the
# base64 of its arguments, and behind a space its unique id where the language has it.
PHP = r"""
[, $host, $port, $queue, $file] = $argv;
$count = 0;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction($queue, function (GearmanJob $job) use (&$count, $file) {
    $line = base64_encode($job->workload()) . ' ' . $job->unique() . "\n";
    file_put_contents($file, $line, FILE_APPEND);
    $count += 1;
    if ($count === 2) {
        $job->sendFail();
        return;
    }
    return 'done';
});
while ($worker->work()) {
}
"""
PERL = r"""
use strict; use warnings; use MIME::Base64; use Gearman::Worker;
my ($host, $port, $queue, $file) = @ARGV;
my $count = 0;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function($queue => sub {
    my $job = shift;
    open(my $out, ">>", $file) or die; print $out encode_base64($job->arg, ""), "\n"; close($out);
    return ++$count == 2 ? undef : "done";
});
$worker->work while 1;
"""
SHELL = 'base64 -w0 >> "$0"; echo >> "$0"; test "$(wc -l < "$0")" -ne 2'
BYTES = bytes(range(256))
LANGUAGES = ["php", "perl", "gearman"]


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


def command(language: str, address: str, queue: str, file: Path) -> list[str]:
    """The receiver of a language; the test ends here without it."""
    host, port = address.split(":")
    program = find(language)
    if language == "gearman":
        return [
            program,
            "-h",
            host,
            "-p",
            port,
            "-w",
            "-f",
            queue,
            "--",
            "sh",
            "-c",
            SHELL,
            str(file),
        ]
    if language == "php":
        if run_program([program, "-r", "exit((int) !extension_loaded('gearman'));"]).returncode:
            missing("php-gearman")
        return [program, "-r", PHP, "--", host, port, queue, str(file)]
    if run_program([program, "-MGearman::Worker", "-e1"]).returncode:
        missing("Perl's Gearman::Worker (libgearman-client-perl)")
    return [program, "-e", PERL, host, port, queue, str(file)]


Receive = Callable[[str, str], Callable[[], list[bytes]]]


@pytest.fixture
def receive(cluster: Cluster, tmp_path: Path) -> Iterator[Receive]:
    """Starts receivers: `receive(language, queue)` returns what returns the lines it wrote."""
    started: list[subprocess.Popen[bytes]] = []

    def start(language: str, queue: str) -> Callable[[], list[bytes]]:
        file = tmp_path / queue
        file.touch()
        started.append(subprocess.Popen(tied(command(language, cluster.address, queue, file))))
        return lambda: file.read_bytes().splitlines()

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_plain_receiver_gets_the_bytes_and_is_asked_again_after_a_failure(
    cluster: Cluster, receive: Receive, topic: str, language: str
) -> None:
    lines = receive(language, f"{topic}_alice")
    subscribe(cluster, topic, "alice", max_backoff=0.2)
    publish(cluster, topic, base64.b64encode(BYTES).decode(), encoding="base64")
    publish(cluster, topic, "grüße", "last")
    eventually(lambda: lane(cluster, topic, "alice")["position"] == 3)
    found = [line.split() for line in lines()]
    assert [base64.b64decode(payload) for payload, *_ in found] == [
        BYTES,
        *["grüße".encode()] * 2,
        b"last",
    ]
    if language == "php":
        assert [unique.split(b":")[1] for _, unique in found] == [b"1", b"2", b"2", b"3"]
    assert lane(cluster, topic, "alice")["attempts"] == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_plain_receiver_that_takes_envelopes_sees_sequence_and_attempt(
    cluster: Cluster, receive: Receive, topic: str, language: str
) -> None:
    lines = receive(language, f"{topic}_alice")
    subscribe(cluster, topic, "alice", max_backoff=0.2, envelope=True)
    replies = publish(cluster, topic, "first", "grüße")
    eventually(lambda: lane(cluster, topic, "alice")["position"] == 2)
    envelopes = [json.loads(base64.b64decode(line.split()[0])) for line in lines()]
    assert [(one["payload"], one["sequence"], one["attempt"]) for one in envelopes] == [
        ("first", 1, 1),
        ("grüße", 2, 1),
        ("grüße", 2, 2),
    ]
    assert {one["epoch"][:8] for one in envelopes} == {one.epoch for one in replies}
