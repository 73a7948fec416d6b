"""NATS JetStream with durable consumers: a server of our own, and a process that uses it.

Rules: a file store as the server has it by default, which is synced every two minutes, not every
second. Publisher and consumers are one process, which publishes everything before it consumes:
each consumer is a durable one that pushes and acknowledges every message by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType
from support.servers import HOST, free_port

from benchmarks import programs
from benchmarks.raw import ANSWER_S
from benchmarks.reception import Reception

START_S = 20.0
WINDOW = 256  # publications between two looks at the stream: the server's buffers stay small
_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_STREAM, _SUBJECT = "bench", "bench"


class Server(NamedTuple):
    """A running server."""

    port: int
    pid: int


def is_installed() -> bool:
    """Whether nats-server is here."""
    return shutil.which("nats-server", path=_PLACES) is not None


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a server; nothing of it is left at the end."""
    program = shutil.which("nats-server", path=_PLACES)
    assert program is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nats-") as directory:
        command = [program, "-a", HOST, "-p", str(port), "-js", "-sd", directory]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops it
        )
        try:
            _wait(process, port)
            yield Server(port, process.pid)
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nats-server does not start") from None
            time.sleep(0.05)


class _Consumers:
    """Durable consumers of one stream on one connection, one for each queue."""

    def __init__(self, reception: Reception[str], client: Client) -> None:
        self._reception = reception
        self._client = client
        self._jetstream: JetStreamContext = client.jetstream()
        self._over = asyncio.get_running_loop().create_future()

    async def publish(self, payload: bytes, count: int) -> None:
        """Make the stream and fill it."""
        await self._jetstream.add_stream(
            name=_STREAM, subjects=[_SUBJECT], storage=StorageType.FILE
        )
        for number in range(1, count + 1):
            await self._client.publish(_SUBJECT, payload)
            if number % WINDOW == 0 or number == count:
                await self._until_stored(number)

    async def _until_stored(self, count: int) -> None:
        deadline = time.monotonic() + ANSWER_S
        await self._client.flush()
        while (await self._jetstream.stream_info(_STREAM)).state.messages < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"fewer than {count} messages were stored")
            await asyncio.sleep(0.01)

    async def consume(self, queues: Sequence[str], in_flight: int) -> None:
        """Make the consumers, then let all of them begin; returns when all is acknowledged."""
        configs = {
            queue: ConsumerConfig(
                durable_name=queue,
                deliver_subject=f"deliver.{queue}",
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                max_ack_pending=in_flight,
            )
            for queue in queues
        }
        for config in configs.values():
            await self._jetstream.add_consumer(_STREAM, config)
        for queue, config in configs.items():
            await self._jetstream.subscribe_bind(
                _STREAM, config, queue, cb=self._taking(queue), manual_ack=True
            )
        await asyncio.wait_for(self._over, ANSWER_S * 2)

    def _taking(self, queue: str) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            # "$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQUENCE..."
            self._reception.took(queue, int(message.reply.split(".")[5]))
            await message.ack()
            if not self._reception.left:
                await self._client.flush()
                if self._reception.is_over():
                    self._over.set_result(None)

        return take

    async def failed(self, error: Exception) -> None:
        """What goes wrong in a callback ends the measurement."""
        if not self._over.done():
            self._over.set_exception(error)


async def _run(told: dict[str, Any]) -> None:
    reception = Reception(told["queues"], told["each"], told["pids"])
    consumers: list[_Consumers] = []

    async def failed(error: Exception) -> None:
        for one in consumers:
            await one.failed(error)

    client = await nats.connect(f"nats://{HOST}:{told['port']}", error_cb=failed)
    consumers.append(_Consumers(reception, client))
    await consumers[0].publish(told["payload"].encode(), told["each"])
    programs.answer("ready")
    try:
        await consumers[0].consume(told["queues"], told["in_flight"])
    except TimeoutError:
        raise RuntimeError(f"it takes too long: {reception.missing()}") from None
    programs.answer(reception.result())
    await client.jetstream().delete_stream(_STREAM)  # its consumers go with it
    programs.answer("gone")
    await client.close()


if __name__ == "__main__":
    asyncio.run(_run(programs.settings()))
