"""``gearhorn listen``: show messages as they come, or run a command for each.

Without ``--as`` it is a subscription of its own, which ends with it: so it takes no other
receiver's copies. With ``--as`` it is that client, as long as it runs and beside others of that
name.

Rules: a message is acknowledged after it was written, or after its command has succeeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gearhorn.aio import Durable, Message, Subscriber
from gearhorn.cli.commands.execute import Command
from gearhorn.cli.commands.settings import Settings, complete_topics, wait, with_settings
from gearhorn.cli.commands.subscriptions import durable_of
from gearhorn.cli.commands.values import SECONDS, clean
from gearhorn.client import ending
from gearhorn.errors import Unknown
from gearhorn.messages.codec import as_text, encode

GRACE_S = 15.0  # that commands have to end when it is told to
OWN_TTL_S = 60.0  # of a subscription that ends with this process
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("listen")
@click.argument(
    "topics", metavar="TOPIC...", nargs=-1, required=True, shell_complete=complete_topics
)
@click.option(
    "--as", "client", metavar="CLIENT", help="Be this client, beside its other receivers."
)
@click.option("--durable", is_flag=False, flag_value="{}", metavar="[JSON]", help="With options.")
@click.option("--pattern", is_flag=True, help="The topics are patterns.")
@click.option("--start", metavar="all|last|SEQUENCE|AGE", help="Of a new durable subscription.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@click.option(
    "--wait", "wait_s", type=SECONDS, metavar="SECONDS", help="End after so long a silence."
)
@click.option("--exec", "line", metavar="COMMAND", help="Run this for each message.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Commands at once.")
@click.option("--exec-timeout", type=SECONDS, metavar="SECONDS", help="Kill a command after that.")
@click.option("--park-on", type=int, multiple=True, metavar="CODE", help="Exit codes that park.")
@click.option("--dump", metavar="DIR|-", help="Write each payload to a file, or to stdout.")
@click.option("--format", "form", metavar="TEXT", help="{topic} {sequence} {payload} {at} ...")
@click.option("--raw", is_flag=True, help="The payload and nothing else.")
@click.option("--headers", is_flag=True, help="Show headers too.")
@with_settings
def listen_command(settings: Settings, topics: tuple[str, ...], **options: Any) -> int:
    """Show the messages of TOPIC as they come, until it is interrupted.

    With --exec a command is run for each: the payload on its standard input, GEARHORN_TOPIC,
    GEARHORN_SEQUENCE, GEARHORN_HEADER_... in its environment. Exit code 0 acknowledges, 75 is a
    failed attempt, 65 parks the message.
    """
    return wait(_Listening(settings, topics, options).run())


class _Listening:
    """One call of ``gearhorn listen``.

    What ends it is told to ``_told``: a signal, the last message that was asked for, or a silence.
    A subscription of its own has a ``ttl`` besides: where this process is killed, it ends all the
    same, and what waited on its queue is bounded by ``--max-backlog`` of the workers.
    """

    def __init__(
        self, settings: Settings, topics: tuple[str, ...], options: dict[str, Any]
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._options = options
        self._is_own = options["client"] is None
        self._client = options["client"] or f"tail-{socket.gethostname()}-{os.getpid()}"
        self._left = options["count"]
        self._told = ending.Told.not_yet()
        self._last_s = time.monotonic()
        self._write = writer_of(settings, options)
        self._durable = self._durable_options()
        self._failed: OSError | None = None  # why nothing can be written any more
        if options["start"] and self._durable is None:
            raise click.UsageError("--start needs --durable: other subscriptions have no log")
        if options["line"] and self._is_own and options["durable"]:
            raise click.UsageError("--durable needs --as: its position is kept under that name")

    async def run(self) -> int:
        """Listen; return the exit code."""
        subscriber = self._subscriber(await self._plain())
        with ending.signals(self._told):
            watching = asyncio.ensure_future(self._watch())
            try:
                await subscriber.run_until(self._told)
            finally:
                watching.cancel()
                if self._is_own:
                    await self._end()
        if self._failed is not None:
            raise self._failed
        return 0

    async def _plain(self) -> set[str]:
        """Return the topics to which this client is subscribed without envelopes: their receivers
        share the queue, so that is not changed."""
        plain: set[str] = set()
        if self._is_own:
            return plain
        async with self._settings.admin() as admin:
            for topic in self._topics:
                with contextlib.suppress(Unknown):
                    described = (await admin.describe(topic)).get("subscriptions", {})
                    if not described.get(self._client, {}).get("envelope", True):
                        plain.add(topic)
        return plain

    def _subscriber(self, plain: set[str]) -> Subscriber:
        options, settings = self._options, self._settings
        subscriber = Subscriber(
            self._client,
            *settings.servers,
            tls=settings.tls,
            concurrency=options["jobs"] if options["line"] else 1,
            prefetch=1 if options["line"] or self._left else 16,
            grace=GRACE_S if options["line"] else 0.0,
        )
        for topic in self._topics:
            subscriber.on(
                topic,
                durable=self._durable,
                ttl=OWN_TTL_S if self._is_own else None,
                pattern=options["pattern"],
                envelope=topic not in plain,
            )(self._handler())
        return subscriber

    def _durable_options(self) -> Durable | None:
        """Return the options of ``--durable`` and ``--start``; raises ``click.UsageError``."""
        values = durable_of(self._options["durable"])
        if values is None:
            return None
        if self._options["start"]:
            values["start"] = start_of(self._options["start"])
        try:
            return Durable(**values)
        except TypeError as error:
            raise click.UsageError(f"--durable: {error}") from None

    def _handler(self) -> Callable[..., Any]:
        """Return what processes a message: a coroutine that writes it, or a function that runs the
        command and so needs a thread of its own."""
        options = self._options
        if not options["line"]:
            return self._show
        command = Command(options["line"], options["exec_timeout"], options["park_on"])

        def execute(message: Message) -> bytes:
            answer = command(message)
            self._settings.say(f"{message.topic}: done{_place(message)}")
            loop.call_soon_threadsafe(self._count)
            return answer

        loop = asyncio.get_running_loop()
        return execute

    async def _show(self, message: Message) -> None:
        """Write a message. What comes after the last one that was asked for stays unacknowledged,
        and so does what cannot be written: the reader has gone, or the disk is full. To fail it
        would only bring it again."""
        if self._left != 0 and self._failed is None:
            try:
                self._write(message)
            except OSError as error:
                self._failed = error
                self._told.again()
            else:
                self._count()
                return
        await asyncio.sleep(3600)

    def _count(self) -> None:
        """A message was processed; on the event loop."""
        self._last_s = time.monotonic()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                asyncio.get_running_loop().call_soon(self._told.again)

    async def _watch(self) -> None:
        """End after the silence that was asked for."""
        wait_s = self._options["wait_s"]
        while wait_s is not None and not self._told.first.is_set():
            left_s = self._last_s + wait_s - time.monotonic()
            if left_s <= 0:
                self._told.again()
                return
            await asyncio.sleep(left_s)

    async def _end(self) -> None:
        """Take the subscriptions of this very process away, and what waits for them."""
        async with self._settings.admin() as admin:
            for topic in self._topics:
                await admin.unsubscribe(
                    topic, self._client, drain=True, pattern=self._options["pattern"]
                )


def start_of(text: str) -> Any:
    """Return where to start: a word, a sequence, or an age such as 1h. Raises
    ``click.UsageError``."""
    if text in ("new", "all", "last"):
        return text
    if text.isdigit():
        return int(text)
    match = _AGE.match(text)
    if match is None:
        raise click.UsageError(f"--start: expected all, last, a sequence or an age, got {text!r}")
    return {"window": float(match[1]) * _SECONDS[match[2]]}


def _place(message: Message) -> str:
    return "" if message.position is None else f" {message.position.sequence}"


def writer_of(settings: Settings, options: dict[str, Any]) -> Callable[[Message], None]:
    """Return what writes a message as the options say.

    Each message is written and flushed as one piece: a reader of the pipe sees whole lines, and a
    message is acknowledged only when it has left this process.
    """
    if options["dump"] and options["dump"] != "-":
        return _Dump(Path(options["dump"]))
    if options["dump"] or options["raw"]:
        return lambda message: _put(message.data + (b"" if options["dump"] else b"\n"))
    if settings.is_json:
        return lambda message: _put(encode(_document(message)) + b"\n")
    if options["form"]:
        return lambda message: _put(_filled(options["form"], message).encode() + b"\n")
    return lambda message: _put(line_of(message, options["headers"]).encode() + b"\n")


def _put(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _document(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"topic": message.topic, "client_id": message.client_id}
    if message.position is not None:
        document |= message.position._asdict() | {"attempt": message.attempt}
    document |= {"at": message.at, "unique": message.unique, "headers": dict(message.headers)}
    return document | as_text(message.data)


def _filled(form: str, message: Message) -> str:
    values = {key: value for key, value in _document(message).items() if key != "headers"}
    values["payload"] = message.data.decode(errors="replace")
    values |= {f"header.{name}": value for name, value in message.headers.items()}
    return re.sub(r"\{([\w.-]+)\}", lambda match: str(values.get(match[1], "")), form)


def line_of(message: Message, with_headers: bool) -> str:
    """Return a message as a line for people."""
    at = time.strftime("%H:%M:%S", time.localtime(message.at or time.time()))
    text = clean(message.data.decode(errors="backslashreplace"))
    again = f" (attempt {message.attempt})" if message.attempt > 1 else ""
    headers = "".join(f" {name}={clean(value)}" for name, value in message.headers.items())
    shown = headers if with_headers else ""
    return f"{at} {message.topic}{_place(message)}{again}{shown} {text}"


class _Dump:
    """Writes each payload to a file of its own in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        directory.mkdir(parents=True, exist_ok=True)

    def __call__(self, message: Message) -> None:
        self._number += 1
        number = message.position.sequence if message.position else self._number
        topic = re.sub(r"[^\w.-]", "_", message.topic)
        fresh = self._directory / f".{topic}-{number}"
        fresh.write_bytes(message.data)
        fresh.replace(self._directory / f"{topic}-{number}")
