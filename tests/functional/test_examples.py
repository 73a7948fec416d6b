"""Every program of docs/examples does what it says, in each of the five languages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.examples import CLIENTS, EXAMPLES, Examples, programs
from support.servers import Gearmand, Redis

PROGRAMS = ["ask", "durable", "publish", "receive"]  # each language has these


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """gearmand, Redis and one worker."""
    cluster = Cluster([Gearmand()], Redis())
    yield cluster
    cluster.close()


@pytest.fixture
def examples(cluster: Cluster, tmp_path: Path) -> Iterator[Examples]:
    """Runs examples in a directory of the test's own; what goes on ends with the test."""
    with Examples(cluster, tmp_path) as examples:
        yield examples


@pytest.fixture(params=CLIENTS)
def language(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A language; what its programs subscribe is ended behind the test."""
    language = request.param
    assert isinstance(language, str)
    yield language
    for topic in ("news", "orders", "prices"):
        outcome = cluster.run(
            "unsubscribe_fanout", topic=topic, client_id=CLIENTS[language], drain=True
        )
        assert outcome.kind == "complete", outcome


def receive(examples: Examples, language: str) -> Path:
    """Start the receiver of a language; return the file that has its output."""
    if language == "shell":
        subscribed = examples.run("shell/subscribe.sh")
        assert json.loads(subscribed.stdout)["queue"] == "news_alice"
    output = examples.start(language, "receive")
    examples.wait_for_receiver(f"news_{CLIENTS[language]}")
    return output


def received(language: str, text: str) -> str:
    """What a receiver prints of one message."""
    return text if language == "shell" else f"{CLIENTS[language]} received {text}\n"


def test_each_language_has_each_program() -> None:
    for language in CLIENTS:
        assert {path.stem for path in programs(language)} >= set(PROGRAMS), language
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(CLIENTS)


def test_a_program_receives_what_its_language_publishes(examples: Examples, language: str) -> None:
    output = receive(examples, language)
    published = examples.run_program(language, "publish")
    expected = "1" if language == "shell" else "copies: 1\n"
    assert (published.stdout, published.stderr) == (expected, "")
    eventually(lambda: output.read_text() == received(language, "hello"))


def test_a_question_is_answered(examples: Examples, language: str) -> None:
    output = receive(examples, language)
    asked = examples.run_program(language, "ask")
    client = CLIENTS[language]
    if language in ("shell", "c"):
        receipt, _ = json.JSONDecoder().raw_decode(asked.stdout[asked.stdout.index("{") :])
        assert receipt["delivered"] == [client]
        assert receipt["results"] == {client: "" if language == "shell" else "thanks from erin"}
    else:
        assert asked.stdout == f"{client}: thanks from {client}\n"
    assert asked.returncode == 0
    eventually(lambda: output.read_text() == received(language, "who is there?"))


@pytest.mark.parametrize("language", ["shell", "python"], indirect=True)
def test_topics_are_summed_up(examples: Examples, language: str, cluster: Cluster) -> None:
    cluster.subscribe("summed", "nobody")
    cluster.publish("summed", "x")
    asked = examples.run_program(language, "summary")
    assert (asked.stderr, asked.returncode) == ("", 0)
    if language == "shell":
        page, _ = json.JSONDecoder().raw_decode(asked.stdout)
        assert page["topics"]["summed"]["subscriptions"] == 1
    else:
        assert "summed: 1 waiting, 1 without a receiver\n" in asked.stdout


@pytest.mark.parametrize("language", ["shell", "php"], indirect=True)
def test_answers_come_one_by_one(examples: Examples, language: str) -> None:
    receive(examples, language)
    client = CLIENTS[language]
    asked = examples.run_program(language, "stream")
    assert asked.returncode == 0
    if language == "php":
        assert asked.stdout == f"{client}: thanks from {client}\n1 answered\n"
    else:
        answer, end = asked.stdout.splitlines()
        assert json.loads(answer)["client_id"] == client
        assert end == "1100% Complete", "the number, and how far the command says that it is"


@pytest.mark.parametrize("language", ["library", "python", "perl", "php"], indirect=True)
def test_a_question_tells_of_those_who_do_not_answer(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    cluster.subscribe("news", CLIENTS[language])
    asked = examples.run_program(language, "ask")
    assert asked.stdout == f"{CLIENTS[language]} did not answer\n"


def test_a_durable_receiver_that_fails_is_tried_again(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    client = CLIENTS[language]
    output = examples.start(language, "durable")
    examples.wait_for_receiver(f"orders_{client}")
    assert cluster.publish("orders", "two shirts").data == b"1"
    if language == "shell":
        inbox = examples.directory / "inbox"
        eventually(lambda: "inbox" in output.read_text(), what="the first attempt does not fail")
        inbox.mkdir()
        orders = inbox / "orders"
        eventually(lambda: orders.exists() and orders.read_text() == "two shirts")
    else:
        expected = f"{client} processed two shirts in attempt 2\n"
        eventually(lambda: expected in output.read_text(), what="no second attempt")
    eventually(lambda: lag(cluster, client) == 0, what="it is not acknowledged")


@pytest.mark.parametrize("language", ["php"], indirect=True)
def test_a_receiver_says_what_is_to_come_of_a_message(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    client = CLIENTS[language]
    output = examples.start(language, "park")
    examples.wait_for_receiver(f"orders_{client}")
    for order in ("two shirts", "\t"):
        assert cluster.publish("orders", order).data == b"1"
    eventually(lambda: lag(cluster, client) == 0)
    assert output.read_text() == f"{client} processed two shirts\n"
    listed = cluster.run("parked_fanout", topic="orders", client_id=client, action="list")
    [message] = json.loads(listed.data)["parked"]
    assert (message["attempts"], message["error"]) == (1, "not an order")


def orders(cluster: Cluster, client: str) -> dict[str, Any]:
    """What is described of a client's durable subscription to `orders`."""
    described = json.loads(cluster.run("describe_fanout", topic="orders").data)
    return dict(described["topics"]["orders"]["subscriptions"][client]["durable"])


def lag(cluster: Cluster, client: str) -> int:
    """How many messages of `orders` a client has not done with."""
    return int(orders(cluster, client)["lag"])


@pytest.mark.parametrize("language", ["shell", "library"], indirect=True)
def test_a_subscription_is_paused(cluster: Cluster, examples: Examples, language: str) -> None:
    client = CLIENTS[language]
    cluster.subscribe("orders", client, durable=True)
    assert cluster.publish("orders", "two shirts").data == b"1"
    paused = examples.run_program(language, "pause")
    assert (paused.stderr, paused.returncode) == ("", 0)
    if language == "shell":
        assert orders(cluster, client)["paused_until"] > time.time()
        cluster.subscribe("orders", client, durable={"paused": False})
    else:
        assert paused.stdout == "repairing; orders that wait: 1\n"
    assert not orders(cluster, client)["paused"]
    wire = cluster.wire()
    wire.can_do(f"orders_{client}".encode())
    job = wire.grab(30)
    assert job is not None
    assert job.payload == b"two shirts"
    wire.complete(job.handle)
    eventually(lambda: lag(cluster, client) == 0)


@pytest.mark.parametrize("language", ["python"], indirect=True)
def test_headers_travel_and_what_is_late_is_dropped(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    cluster.subscribe("prices", "bob", envelope=True)
    assert cluster.publish("prices", "late", expires=1.0).data == b"1"  # waits on the queue
    time.sleep(1.1)
    output = examples.start(language, "headers")
    examples.wait_for_receiver("prices_bob")
    assert examples.run("shell/headers.sh").stdout == "1"
    eventually(lambda: output.read_text() == "bob received 1.0843 USD\n")


@pytest.mark.parametrize("language", ["library"], indirect=True)
def test_of_each_value_the_newest_comes(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    subscribed = json.loads(examples.run("shell/latest.sh").stdout)
    assert subscribed["queue"] == "prices_alice"
    cluster.subscribe("prices", "frank", durable={"paused": True})
    output = examples.start(language, "latest")
    examples.wait_for_receiver("prices_frank")
    eventually(lambda: latest(cluster) == {"alice": "currency", "frank": "currency"})
    for price, currency in (("1.0843", "USD"), ("0.8351", "GBP"), ("1.0844", "USD")):
        assert cluster.publish("prices", price, headers={"currency": currency}).data == b"2"
    cluster.subscribe("prices", "frank", durable={"paused": False})
    expected = "frank received 0.8351 GBP\nfrank received 1.0844 USD\n"
    eventually(lambda: output.read_text() == expected)
    outcome = cluster.run("unsubscribe_fanout", topic="prices", client_id="alice", drain=True)
    assert outcome.kind == "complete", outcome


def latest(cluster: Cluster) -> dict[str, str]:
    """What the durable subscriptions to `prices` get the newest of."""
    described = json.loads(cluster.run("describe_fanout", topic="prices").data)
    subscriptions = described["topics"]["prices"]["subscriptions"]
    return {client: one["durable"]["latest"] for client, one in subscriptions.items()}


@pytest.mark.parametrize("language", ["python"], indirect=True)
def test_one_queue_has_the_messages_of_every_topic_that_a_pattern_matches(
    cluster: Cluster, examples: Examples, language: str
) -> None:
    subscribed = json.loads(examples.run("shell/patterns.sh").stdout)
    assert subscribed["queue"] == "orders.*.paid_alice"
    output = examples.start(language, "patterns")
    examples.wait_for_receiver("orders.*.paid_bob")
    assert cluster.publish("orders.north.paid", "two shirts").data == b"2"
    assert cluster.publish("orders.north.open", "a hat").data == b"0"
    eventually(lambda: output.read_text() == "bob received two shirts of orders.north.paid\n")


def test_a_program_tells_why_it_was_refused(examples: Examples, language: str) -> None:
    for program in ("publish", "ask"):
        refused = examples.run_program(language, program, news="__news")
        assert "reserved: topic __news" in refused.stderr
        assert "copies" not in refused.stdout
        assert refused.returncode != 0


def test_the_shell_unsubscribes(cluster: Cluster, examples: Examples) -> None:
    cluster.subscribe("news", "alice")
    ended = json.loads(examples.run("shell/unsubscribe.sh").stdout)
    assert ended["version"] > 0
    assert cluster.publish("news", "hello").data == b"0"
