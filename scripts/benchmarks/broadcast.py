"""A Celery worker that takes tasks from Broadcast queues over Redis, in a process of its own.

Rules: one process without children (the pool is ``solo``), no results, no gossip. Celery publishes
one task to each queue, so that its form is known; what is measured is the same task, numbered anew
and published from a bare socket: a publisher in Python would be what bounds the line.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import redis
from celery import Celery
from kombu.common import Broadcast
from support.servers import HOST

from benchmarks import blasts, numbered, programs
from benchmarks.raw import ANSWER_S
from benchmarks.reception import Reception

Published = list[tuple[bytes, bytes]]
_answers = os.dup(1)  # Celery writes a banner to standard output, and takes it for its log


def _answer(what: object) -> None:
    os.write(_answers, json.dumps(what).encode() + b"\n")


def _captured(client: redis.Redis, task: Any, topics: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Have Celery publish one task to each queue; return the channel and the data of each.

    The exchanges are declared on the same connection first: Celery declares no Broadcast that it
    publishes to, and over Redis its messages would go nowhere."""
    with client.pubsub() as pubsub, task.app.connection_for_write() as connection:
        producer = task.app.amqp.Producer(connection.default_channel)
        pubsub.psubscribe("*")
        pubsub.get_message(timeout=ANSWER_S)
        for topic in topics:
            task.app.amqp.queues[topic].exchange(producer.channel).declare()
            task.apply_async((topic, numbered.payload(1)), queue=topic, producer=producer)
        return [_published(pubsub) for _ in topics]


def _published(pubsub: Any) -> tuple[bytes, bytes]:
    """Return the next message that was published."""
    message = pubsub.get_message(timeout=ANSWER_S)
    if message is None:
        raise RuntimeError("Celery publishes nothing")
    return message["channel"], message["data"]


def _numbered(data: bytes, sequence: int) -> bytes:
    """Return a task with another sequence."""
    message = json.loads(data)
    body = base64.b64decode(message["body"])
    old, new = (numbered.payload(number).encode() for number in (1, sequence))
    message["body"] = base64.b64encode(body.replace(old, new)).decode()
    return json.dumps(message).encode()


def _publish_when_heard(client: redis.Redis, address: str, published: Published) -> None:
    """Publish once the worker listens to every queue; what goes wrong, or takes too long, ends the
    process, since the worker would go on and the one who waits for its result with it."""
    try:
        _until_heard(client, {channel for channel, _ in published})
        _answer("ready")
        blasts.publish_redis(address, published)
        time.sleep(ANSWER_S * 2)
        print("it takes too long", file=sys.stderr, flush=True)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


def _until_heard(client: redis.Redis, channels: set[bytes]) -> None:
    deadline = time.monotonic() + ANSWER_S
    while True:
        heard = client.pubsub_numpat() + sum(n for _, n in client.pubsub_numsub(*channels))
        if heard >= len(channels):
            return
        if time.monotonic() > deadline:
            raise RuntimeError("the Celery worker does not listen")
        time.sleep(0.05)


def main() -> None:
    """Take what the settings say; the process is ended by the one who started it."""
    os.dup2(2, 1)
    told = programs.settings()
    topics, address = told["topics"], f"{HOST}:{told['port']}"
    reception = Reception(topics, told["each"], told["pids"])
    app = Celery("bench", broker=f"redis://{address}/1")
    make: Any = Broadcast
    app.conf.task_queues = [make(name=topic, queue=topic) for topic in topics]
    app.conf.worker_prefetch_multiplier = told["in_flight"]
    app.conf.broker_connection_retry_on_startup = True
    logging.getLogger("celery").setLevel(logging.ERROR)

    @app.task(name="bench.take", ignore_result=True)  # type: ignore[untyped-decorator]
    def take(topic: str, payload: str) -> None:
        reception.took(topic, numbered.sequence_of(payload.encode()))
        if not reception.left and reception.is_over():
            _answer(reception.result())

    client = redis.Redis(HOST, told["port"])
    tasks = _captured(client, take, topics)
    published = [
        (channel, _numbered(data, sequence))
        for sequence in range(1, told["each"] + 1)
        for channel, data in tasks
    ]
    threading.Thread(
        target=_publish_when_heard, args=(client, address, published), daemon=True
    ).start()
    options = ("--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle")
    app.worker_main(["worker", "--without-heartbeat", *options])


if __name__ == "__main__":
    main()
