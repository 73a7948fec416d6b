"""TLS between the worker and its servers: verified in full, or not spoken at all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support.bulk import subscribe_all
from support.cluster import Cluster, Worker, eventually
from support.servers import HOST, Redis
from support.tls import Authority, Proxy, tls_redis
from support.wire import admin

MIB = 1024 * 1024
IS_TLS = b"\x16\x03"  # how a ClientHello begins
NO_STORE = "store unreachable"
NO_SERVER = "job server unreachable"
Front = Callable[..., Proxy]
TlsStore = Callable[..., tuple[Redis, Proxy]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs what the worker is to believe."""
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody was told of."""
    return Authority(tmp_path / "theirs")


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    """What is in here is closed when the test ends."""
    made: list[Proxy] = []
    yield made
    for one in made:
        one.close()


@pytest.fixture
def cluster(proxies: list[Proxy], make_cluster: Callable[..., Cluster]) -> Cluster:
    """gearmand and Redis, both without TLS, and no worker yet; stopped before the proxies."""
    return make_cluster(workers=0)


@pytest.fixture
def front(cluster: Cluster, authority: Authority, proxies: list[Proxy]) -> Front:
    """Puts TLS in front of the cluster's gearmand: `front(*names, client_ca=None)`."""

    def make(*names: str, client_ca: str | None = None) -> Proxy:
        context = authority.context(*(names or (HOST,)), client_ca=client_ca)
        proxies.append(Proxy(cluster.address, context))
        return proxies[-1]

    return make


def add_worker(cluster: Cluster, server: str, *options: str, redis: str = "") -> Worker:
    worker = Worker([server], redis or cluster.store.url, *options)
    cluster.workers.append(worker)
    return worker


def counts(address: str, function: str) -> list[int]:
    """What gearmand's `status` says of a function: jobs, running ones, workers."""
    rows = [line.rsplit("\t", 3) for line in admin(address, "status")]
    return next(([int(one) for one in row[1:]] for row in rows if row[0] == function), [0, 0, 0])


def jobs_of(address: str, queue: str) -> int:
    """Jobs that wait or run on a queue."""
    return counts(address, queue)[0]


def serves(address: str) -> bool:
    """Whether a worker is connected to the gearmand and takes fan-outs."""
    return counts(address, "fanout")[2] > 0


def works_end_to_end(cluster: Cluster) -> None:
    """Subscribe, publish in the foreground and receive, by way of the plain gearmand."""
    cluster.subscribe("news", "alice", "bob")
    receivers = [cluster.receiver(f"news_{name}") for name in ("alice", "bob")]
    outcome = cluster.publish("news", "hello", background=False)
    assert (outcome.kind, outcome.data) == ("complete", b"2")
    assert [one.wait(1) for one in receivers] == [[b"hello"], [b"hello"]]


def is_refused(cluster: Cluster, proxy: Proxy, worker: Worker, reason: str) -> None:
    """Assert that the worker tries, says why it fails, and never gets or speaks through."""
    log = eventually(lambda: NO_SERVER in (log := worker.log()) and log, 10)
    assert reason in log
    eventually(lambda: len(proxy.openings) >= 6, 10, "the worker does not try again")
    assert all(first.startswith(IS_TLS) for first in proxy.openings)
    assert not [line for line in admin(cluster.address, "workers") if " gearhorn-" in line]
    assert worker.process.poll() is None


def test_the_worker_serves_through_tls(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front()
    worker = add_worker(cluster, proxy.address, "--ssl-ca", authority.file).ready()
    works_end_to_end(cluster)
    assert proxy.passed
    assert all(first.startswith(IS_TLS) for first in proxy.openings)
    assert worker.stop() == 0


def test_a_host_name_is_verified_as_it_was_configured(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front("localhost")
    add_worker(cluster, f"localhost:{proxy.port}", "--ssl-ca", authority.file).ready()
    works_end_to_end(cluster)


def test_a_certificate_of_another_authority_is_refused(
    cluster: Cluster, stranger: Authority, front: Front
) -> None:
    proxy = front()
    worker = add_worker(cluster, proxy.address, "--ssl-ca", stranger.file)
    is_refused(cluster, proxy, worker, "certificate verify failed")
    assert not proxy.passed


def test_a_certificate_for_another_host_name_is_refused(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front("gearmand.example")
    worker = add_worker(cluster, f"localhost:{proxy.port}", "--ssl-ca", authority.file)
    is_refused(cluster, proxy, worker, "Hostname mismatch")


def test_a_certificate_for_another_address_is_refused(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front("localhost")
    worker = add_worker(cluster, proxy.address, "--ssl-ca", authority.file)
    is_refused(cluster, proxy, worker, "IP address mismatch")


def test_a_server_without_tls_gets_no_plain_text(
    cluster: Cluster, authority: Authority, proxies: list[Proxy]
) -> None:
    plain = Proxy(cluster.address)
    proxies.append(plain)
    worker = add_worker(cluster, plain.address, "--ssl-ca", authority.file)
    eventually(lambda: NO_SERVER in worker.log(), 15)
    assert plain.passed
    assert all(first.startswith(IS_TLS) for first in plain.openings)
    assert not serves(cluster.address)


def test_a_worker_without_ssl_ca_speaks_no_tls(cluster: Cluster, front: Front) -> None:
    proxy = front()
    worker = add_worker(cluster, proxy.address)
    eventually(lambda: NO_SERVER in worker.log(), 10)
    assert not proxy.passed
    assert not any(first.startswith(IS_TLS) for first in proxy.openings)


def test_a_client_certificate_is_given_where_it_is_demanded(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front(client_ca=authority.file)
    certificate, key = authority.issue("worker.example")
    options = ("--ssl-ca", authority.file, "--ssl-cert", certificate, "--ssl-key", key)
    add_worker(cluster, proxy.address, *options).ready()
    works_end_to_end(cluster)


def test_certificate_and_key_may_be_in_one_file(
    cluster: Cluster, authority: Authority, front: Front, tmp_path: Path
) -> None:
    proxy = front(client_ca=authority.file)
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(one).read_text() for one in authority.issue("worker.example")))
    add_worker(cluster, proxy.address, "--ssl-ca", authority.file, "--ssl-cert", str(both)).ready()
    works_end_to_end(cluster)


@pytest.mark.parametrize("gives", ["none", "a strangers"])
def test_without_the_right_client_certificate_nothing_is_served(
    cluster: Cluster, authority: Authority, stranger: Authority, front: Front, gives: str
) -> None:
    proxy = front(client_ca=authority.file)
    options = ["--ssl-ca", authority.file]
    if gives != "none":
        certificate, key = stranger.issue("worker.example")
        options += ["--ssl-cert", certificate, "--ssl-key", key]
    worker = add_worker(cluster, proxy.address, *options)
    is_refused(cluster, proxy, worker, NO_SERVER)
    assert not proxy.passed


@pytest.mark.parametrize("wrong", ["of another certificate", "no key at all"])
def test_a_key_that_cannot_be_used_ends_the_start(authority: Authority, wrong: str) -> None:
    certificate, key = authority.issue("worker.example")
    if wrong == "of another certificate":
        _, key = authority.issue("worker.example")
    else:
        Path(key).write_text("not a key")
    options = ("--ssl-ca", authority.file, "--ssl-cert", certificate, "--ssl-key", key)
    worker = Worker([f"{HOST}:1"], f"redis://{HOST}:1/0", *options)
    try:
        assert worker.process.wait(10) == 2
        assert f"--ssl-cert {certificate}" in worker.log()
    finally:
        worker.close()


def test_a_key_with_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(
    authority: Authority,
) -> None:
    certificate, key = authority.issue("worker.example")
    lock = BestAvailableEncryption(b"secret")
    plain = load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    command = [*(sys.executable, "-m", "gearhorn.cli.worker", "--ssl-ca", authority.file)]
    command += ["--ssl-cert", certificate, "--ssl-key", key]
    # without a terminal OpenSSL asks on standard input, which here neither speaks nor ends
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            assert process.wait(5) == 2
            assert process.stdout is not None
            assert re.search(rb"(?i)encrypted|pass ?(word|phrase)", process.stdout.read())
        finally:
            process.kill()


def test_a_connection_lost_in_tls_comes_back(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front()
    add_worker(cluster, proxy.address, "--ssl-ca", authority.file).ready()
    eventually(lambda: serves(cluster.address))
    cluster.job_servers[0].kill()
    cluster.job_servers[0].restart()
    # an attempt that the front holds while the server is away takes 5 s, and then there is a rest
    eventually(lambda: serves(cluster.address), 15)
    works_end_to_end(cluster)


def test_limits_and_drains_work_through_tls(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    """Both need further connections, one of them in gearmand's text protocol."""
    add_worker(cluster, front().address, "--ssl-ca", authority.file).ready()
    cluster.subscribe("slow", "alice", max_backlog=2)
    assert [cluster.publish("slow", "x").data for _ in range(3)] == [b"1", b"1", b"0"]
    outcome = cluster.run("unsubscribe_fanout", topic="slow", client_id="alice", drain=True)
    assert json.loads(outcome.data)["drained"] == 2
    assert jobs_of(cluster.address, "slow_alice") == 0


def test_a_payload_of_8_mib_arrives_whole(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front()
    add_worker(cluster, proxy.address, "--ssl-ca", authority.file).ready()
    cluster.subscribe("big", "alice")
    alice = cluster.receiver("big_alice")
    payload = "0123456789abcdef" * (8 * MIB // 16)
    outcome = cluster.publish("big", payload, background=False)
    assert (outcome.kind, outcome.data) == ("complete", b"1")
    assert alice.payloads == [payload.encode()]


def test_a_result_of_4_mib_comes_back_whole(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front()
    add_worker(cluster, proxy.address, "--ssl-ca", authority.file).ready()
    cluster.subscribe("big", "alice")
    answer = b"0123456789abcdef" * (4 * MIB // 16)
    cluster.receiver("big_alice", answer=answer)
    outcome = cluster.publish("big", "?", background=False, receipt=True)
    assert answer in outcome.data


def test_a_thousand_copies_arrive_whole(
    cluster: Cluster, authority: Authority, front: Front
) -> None:
    proxy = front()
    add_worker(cluster, proxy.address, "--ssl-ca", authority.file).ready()
    names = [f"c{number}" for number in range(1000)]
    subscribe_all(cluster.address, "many", names)
    receiver = cluster.receiver(*(f"many_{name}" for name in names))
    payload = "x" * 10_000
    assert cluster.publish("many", payload).data == b"1000"
    receiver.wait(1000, 30)
    assert {job.function for job in receiver.jobs} == {b"many_%s" % one.encode() for one in names}
    assert set(receiver.payloads) == {payload.encode()}
    assert len(receiver.jobs) == 1000


@pytest.fixture
def tls_store(authority: Authority, proxies: list[Proxy]) -> Iterator[TlsStore]:
    """Starts a Redis that speaks TLS for these names, behind a proxy that looks on."""
    started: list[Redis] = []

    def start(*names: str) -> tuple[Redis, Proxy]:
        store, port = tls_redis(authority, *names)
        started.append(store.start())
        proxies.append(Proxy(f"{HOST}:{port}"))
        return store, proxies[-1]

    yield start
    for one in started:
        one.stop()


def test_the_store_is_reached_through_tls(
    cluster: Cluster, authority: Authority, tls_store: TlsStore
) -> None:
    store, proxy = tls_store(HOST)
    url = f"rediss://{proxy.address}/0?ssl_ca_certs={authority.file}"
    worker = add_worker(cluster, cluster.address, redis=url).ready()
    works_end_to_end(cluster)
    with redis.Redis.from_url(store.url) as plain:
        assert plain.zrange("{gearhorn}:clients:news", 0, -1) == [b"alice", b"bob"]
    assert all(first.startswith(IS_TLS) for first in proxy.openings)
    assert worker.stop() == 0


def test_a_store_certified_by_another_authority_is_refused(
    cluster: Cluster, stranger: Authority, tls_store: TlsStore
) -> None:
    store, proxy = tls_store(HOST)
    url = f"rediss://{proxy.address}/0?ssl_ca_certs={stranger.file}"
    worker = add_worker(cluster, cluster.address, redis=url)
    store_is_refused(worker, store, proxy, "certificate verify failed")


def test_a_store_certified_for_another_host_is_refused(
    cluster: Cluster, authority: Authority, tls_store: TlsStore
) -> None:
    store, proxy = tls_store("redis.example")
    url = f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={authority.file}"
    worker = add_worker(cluster, cluster.address, redis=url)
    store_is_refused(worker, store, proxy, "Hostname mismatch")


def store_is_refused(worker: Worker, store: Redis, proxy: Proxy, reason: str) -> None:
    """Assert that the worker says why it does not use the store, goes on trying, and wrote nothing
    into it."""
    log = eventually(lambda: NO_STORE in (log := worker.log()) and log, 10)
    assert reason in log
    eventually(lambda: len(proxy.openings) >= 4, 10, "the worker does not try again")
    assert all(first.startswith(IS_TLS) for first in proxy.openings)
    with redis.Redis.from_url(store.url) as plain:
        assert plain.dbsize() == 0
    assert "event=ready" not in worker.log()
    assert worker.stop() == 0
