"""RabbitMQ with durable queues and persistent messages: a process that uses a broker.

Rules: publisher and consumer are one process, which publishes everything before it consumes. It
consumes all queues over one channel and acknowledges what one read brings at once (``multiple``),
which is faster than one by one: seen 19,000-33,000/s instead of 14,000-20,000. Where the settings
say ``is_each``, every message is acknowledged by itself, as consumers that work for a while do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from support.servers import HOST

from benchmarks import programs
from benchmarks.raw import ANSWER_S
from benchmarks.reception import Reception

_EXCHANGE = "bench-durable"
_PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Queues:
    """Durable queues behind a fanout exchange."""

    def __init__(self, channel: BlockingChannel, queues: Sequence[str]) -> None:
        self._channel = channel
        self._queues = queues
        channel.exchange_declare(_EXCHANGE, "fanout", durable=True)
        for queue in queues:
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, _EXCHANGE)

    def publish(self, payload: bytes, count: int) -> None:
        """Publish, and wait until every queue has all; the first bytes are the sequence."""
        for sequence in range(1, count + 1):
            numbered = b"%d " % sequence + payload
            self._channel.basic_publish(_EXCHANGE, "", numbered[: len(payload)], _PERSISTENT)
        deadline = time.monotonic() + ANSWER_S
        while any(self._waiting(queue) < count for queue in self._queues):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not every queue has {count} messages")
            time.sleep(0.05)

    def _waiting(self, queue: str) -> int:
        return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    def delete(self) -> None:
        """Forget them; RuntimeError if one is not empty: not all was acknowledged."""
        left = {queue: self._waiting(queue) for queue in self._queues}
        if any(left.values()):
            raise RuntimeError(f"not acknowledged: {left}")
        for queue in self._queues:
            self._channel.queue_delete(queue)
        self._channel.exchange_delete(_EXCHANGE)


class Consumer:
    """Callbacks that take and acknowledge until all is here, over pika's SelectConnection."""

    def __init__(
        self, reception: Reception[str], queues: Sequence[str], prefetch: int, is_each: bool
    ) -> None:
        self._reception = reception
        self._queues = queues
        self._prefetch = prefetch
        self._is_each = is_each
        self._connection: Any = None
        self.version = ""
        self._tag = 0  # the last one taken and not acknowledged

    def run(self, parameters: pika.ConnectionParameters) -> None:
        """Consume; RuntimeError if it takes too long."""
        self._connection = pika.SelectConnection(parameters, self._opened)
        self._connection.ioloop.call_later(ANSWER_S * 2, self._connection.ioloop.stop)
        self._connection.ioloop.start()
        if self._reception.left:
            raise RuntimeError(f"it takes too long: {self._reception.missing()}")
        self._connection.close()
        self._connection.ioloop.start()  # to its end: the broker has read every acknowledgement

    def _opened(self, connection: pika.SelectConnection) -> None:
        self.version = str((connection.server_properties or {}).get("version"))
        connection.add_on_close_callback(lambda closed, _: closed.ioloop.stop())
        connection.channel(on_open_callback=self._ready)

    def _ready(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=self._prefetch)  # of each consumer
        for queue in self._queues:
            channel.basic_consume(queue, self._took, consumer_tag=queue)

    def _took(self, channel: Any, method: Any, _: object, body: bytes) -> None:
        self._reception.took(method.consumer_tag, int(body.split(b" ", 1)[0]))
        if self._is_each:
            channel.basic_ack(method.delivery_tag)
            self._end_if_over()
            return
        if not self._tag:  # the loop comes to it when all of this read is taken
            self._connection.ioloop.add_callback_threadsafe(lambda: self._acknowledge(channel))
        self._tag = method.delivery_tag

    def _acknowledge(self, channel: Any) -> None:
        channel.basic_ack(self._tag, multiple=True)
        self._tag = 0
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._reception.left and self._reception.is_over():
            self._connection.ioloop.stop()


def main() -> None:
    """Publish and consume what the settings say."""
    told = programs.settings()
    parameters = pika.ConnectionParameters(HOST, told["port"], heartbeat=0)
    blocking = pika.BlockingConnection(parameters)
    queues = Queues(blocking.channel(), told["queues"])
    queues.publish(told["payload"].encode(), told["each"])
    programs.answer("ready")
    reception = Reception(told["queues"], told["each"], told["pids"])
    is_each = told.get("is_each", False)
    consumer = Consumer(reception, told["queues"], told["in_flight"], is_each)
    consumer.run(parameters)
    queues.delete()
    blocking.close()
    programs.answer(reception.result(version=consumer.version))


if __name__ == "__main__":
    main()
