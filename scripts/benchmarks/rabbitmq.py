"""A RabbitMQ broker of our own, and publishers that have every message confirmed.

Rules: the broker runs beside whatever else is installed: its own epmd, ports, cookie and
directories, no plugins, nothing left at the end. Messages and queues are transient.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pika
from support.servers import HOST, free_port

START_S = 60.0
STOP_S = 30.0
WINDOW = 64  # messages on their way unconfirmed, each of as many copies as there are queues
EXCHANGE = "bench"
# Debian's command on the PATH is a wrapper that changes user and loses the environment
_PLACES = os.pathsep.join(("/usr/lib/rabbitmq/bin", os.environ.get("PATH", os.defpath)))
_TRANSIENT = pika.BasicProperties(delivery_mode=1)


class Broker:
    """Use as a context."""

    @staticmethod
    def is_installed() -> bool:
        """Whether rabbitmq-server and Erlang's epmd are here."""
        return bool(shutil.which("rabbitmq-server", path=_PLACES) and shutil.which("epmd"))

    def __init__(self) -> None:
        self._port = free_port()
        self._stack = contextlib.ExitStack()
        self._directory = Path()

    @property
    def parameters(self) -> pika.ConnectionParameters:
        """How to connect."""
        return pika.ConnectionParameters(HOST, self._port)

    @property
    def pid(self) -> int:
        """The process id of Erlang's machine."""
        return int((self._directory / "pid").read_text())

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rabbitmq-"))
            self._directory = Path(directory)
            epmd_port = str(free_port())
            self._run(stack, ["epmd", "-port", epmd_port, "-address", HOST], {})
            program = shutil.which("rabbitmq-server", path=_PLACES)
            assert program is not None
            broker = self._run(stack, [program], self._environment(epmd_port))
            self._wait(broker)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _environment(self, epmd_port: str) -> dict[str, str]:
        plugins = self._directory / "plugins"
        plugins.write_text("[].")
        return {
            "HOME": str(self._directory),  # Erlang's cookie
            "ERL_EPMD_PORT": epmd_port,
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            "RABBITMQ_PID_FILE": str(self._directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(self._directory / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._directory / "none-either"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }

    def _run(
        self, stack: contextlib.ExitStack, command: Sequence[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        log = stack.enter_context((self._directory / f"{Path(command[0]).name}.out").open("wb"))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=self._directory,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops it
        )
        stack.callback(_stop, process)
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with contextlib.closing(pika.BlockingConnection(self.parameters)):
                    return
            except pika.exceptions.AMQPConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    out = (self._directory / "rabbitmq-server.out").read_text(errors="replace")
                    raise RuntimeError(f"RabbitMQ does not start:\n{out}") from None
                time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Fan:
    """A fanout exchange with queues behind it, and two ways to publish to it."""

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        self._parameters = broker.parameters
        self._queues = queues
        self.version = ""  # of the broker, known after ``confirm_behind``
        self._connection = pika.BlockingConnection(self._parameters)
        self._channel = self._connection.channel()
        self._channel.exchange_declare(EXCHANGE, "fanout")
        for queue in queues:
            self._channel.queue_declare(queue, exclusive=True)
            self._channel.queue_bind(queue, EXCHANGE)
        self._channel.confirm_delivery()

    def confirm_each(self, payload: bytes, count: int) -> float:
        """Publish as pika's BlockingConnection does: the next when the former is confirmed.

        Returns the seconds it took, as ``confirm_behind`` does."""
        publish = self._channel.basic_publish
        began = time.perf_counter()
        for _ in range(count):
            publish(EXCHANGE, "", payload, _TRANSIENT)
        return time.perf_counter() - began

    def confirm_behind(self, payload: bytes, count: int) -> float:
        """Publish with up to ``WINDOW`` messages unconfirmed, over pika's SelectConnection."""
        publisher = _Publisher(payload, count)
        connection = pika.SelectConnection(self._parameters, publisher.opened)
        connection.ioloop.start()
        seconds = time.perf_counter() - publisher.began
        self.version = str((connection.server_properties or {}).get("version"))
        connection.close()
        connection.ioloop.start()  # to its end
        if publisher.confirmed != count:
            raise RuntimeError(f"{publisher.confirmed} of {count} messages were confirmed")
        return seconds

    def purge(self, expected: int) -> None:
        """Empty the queues; RuntimeError unless each had what was expected."""
        for queue in self._queues:
            count = self._channel.queue_purge(queue).method.message_count
            if count != expected:
                raise RuntimeError(f"expected {expected} messages on {queue}, got {count}")

    def close(self) -> None:
        """Close the connection; the queues go with it."""
        self._connection.close()


class _Publisher:
    """Callbacks that publish as confirmations come, and stop the loop after the last."""

    def __init__(self, payload: bytes, count: int) -> None:
        self.began = 0.0
        self.confirmed = 0
        self._payload = payload
        self._count = count
        self._sent = 0
        self._channel: Any = None

    def opened(self, connection: pika.SelectConnection) -> None:
        connection.add_on_close_callback(lambda closed, _: closed.ioloop.stop())
        connection.channel(on_open_callback=self._ready)

    def _ready(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._answered, callback=self._begin)

    def _begin(self, _: object) -> None:
        self.began = time.perf_counter()
        self._publish()

    def _answered(self, frame: Any) -> None:
        if frame.method.NAME == "Basic.Nack":
            self._channel.connection.ioloop.stop()
            return
        # tags are 1, 2, 3 ...; a multiple one answers all before it, and they come in order
        if frame.method.multiple:
            self.confirmed = frame.method.delivery_tag
        else:
            self.confirmed += 1
        if self.confirmed == self._count:
            self._channel.connection.ioloop.stop()
        elif self._sent - self.confirmed <= WINDOW // 2:
            self._publish()

    def _publish(self) -> None:
        publish = self._channel.basic_publish
        for _ in range(min(WINDOW - (self._sent - self.confirmed), self._count - self._sent)):
            publish(EXCHANGE, "", self._payload, _TRANSIENT)
            self._sent += 1
