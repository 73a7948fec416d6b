"""``gearhorn publish``: one message, or many.

Rules: ``--lines`` and ``--count`` are pipelined; a message that fails does not end the others.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import click

from gearhorn.aio import Outgoing, Published, Publisher, Receipt, Results
from gearhorn.cli.commands.lines import lines_of
from gearhorn.cli.commands.progress import Progress
from gearhorn.cli.commands.settings import Settings, reach, topic_argument, wait, with_settings
from gearhorn.cli.commands.values import SECONDS, Rate, clean, headers_of, quorum_of
from gearhorn.errors import GearhornError, NotDelivered
from gearhorn.messages.codec import encode

WINDOW = 256
STEP = 100  # messages between two words of progress
SUMMED = 50_000  # messages whose results are kept before they are summed up
SHOWN = 10  # errors
_TEMPLATE = re.compile(r"\{(n|time|random:(\d{1,6}))\}")


@click.command("publish")
@topic_argument
@click.argument("payload", required=False)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE")
@click.option("--unique", help="An id under which it may be repeated.")
@click.option("--exclude", multiple=True, metavar="CLIENT", help="It gets no copy.")
@click.option("--priority", type=click.Choice(["low", "normal", "high"]), default="normal")
@click.option("--expires", type=SECONDS, metavar="SECONDS")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until every receiver is done.")
@click.option("--quorum", metavar="N|N%", help="With --wait: so many are enough.")
@click.option("--receipt", is_flag=True, help="Show what became of each copy.")
@click.option("--base64", "is_base64", is_flag=True, help="The payload is base64.")
@click.option("--file", "file", type=click.File("rb"), help="The payload is this file.")
@click.option("--lines", is_flag=True, help="A message per line of the payload or of stdin.")
@click.option("--count", type=click.IntRange(min=1), help="So many messages.")
@click.option("--template", is_flag=True, help="Fill {n}, {time} and {random:N} in.")
@click.option("--rate", type=Rate(), metavar="N[/s]", help="At most so many messages a second.")
@with_settings
def publish_command(settings: Settings, topic: str, **options: Any) -> int:
    """Publish PAYLOAD to TOPIC; - or nothing is standard input.

    Exit code 3: some of the messages, or some of the receivers, have failed.
    """
    _check(options)
    if options["lines"] or options["count"]:
        return wait(_many(settings, topic, options))
    return wait(_one(settings, topic, options))


def _check(options: dict[str, Any]) -> None:
    """Raise ``click.UsageError`` for options that would not do together what they say."""
    is_many = bool(options["lines"] or options["count"])
    is_waiting = options["is_waiting"] or options["receipt"]
    if is_many and is_waiting:
        raise click.UsageError("--wait and --receipt are for one message, not --lines or --count")
    if is_waiting and (options["expires"] or options["priority"] != "normal"):
        raise click.UsageError("--expires and --priority are not for messages that are waited for")
    if options["quorum"] and not is_waiting:
        raise click.UsageError("--quorum needs --wait")
    if options["rate"] and not is_many:
        raise click.UsageError("--rate needs --lines or --count")
    if is_many and options["unique"] and not options["template"]:
        raise click.UsageError(
            "--unique would make one message of many: fill it in, as by --template --unique 'a-{n}'"
        )


def _details(options: dict[str, Any]) -> dict[str, Any]:
    """Return what every message of a call has."""
    return {
        "unique": options["unique"],
        "headers": headers_of(options["headers"]),
        "exclude": options["exclude"],
        "priority": options["priority"],
        "expires": options["expires"],
    }


def _source(options: dict[str, Any]) -> BinaryIO | bytes:
    """Return the payload, or where it is read: ``--file``, then the argument, then standard input.
    Raises ``click.UsageError`` where that is a terminal and was not asked for."""
    payload = options["payload"]
    if options["file"] is not None:
        source: BinaryIO = options["file"]
        return source
    if payload is None or payload == "-":
        if payload is None and sys.stdin.isatty():
            raise click.UsageError("no payload: give one, or - to type it")
        return sys.stdin.buffer
    return os.fsencode(payload)  # whose bytes need not be UTF-8


def _payload(options: dict[str, Any]) -> bytes:
    """Return the payload, read to its end and not filled in."""
    source = _source(options)
    return source if isinstance(source, bytes) else source.read()


def _decoded(data: bytes, options: dict[str, Any]) -> bytes:
    """Return a payload as ``--base64`` says; line breaks in it do not count."""
    if not options["is_base64"]:
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except ValueError as error:
        raise click.UsageError(f"--base64: {error}") from None


def _filled(data: bytes, options: dict[str, Any], number: int) -> bytes:
    """Return a payload, or a unique id, filled in as ``--template`` says."""
    if not options["template"]:
        return data

    def fill(match: re.Match[str]) -> str:
        if match[1] == "n":
            return str(number)
        if match[1] == "time":
            return f"{time.time():.6f}"
        return "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=int(match[2])))

    return _TEMPLATE.sub(fill, data.decode(errors="surrogateescape")).encode(
        errors="surrogateescape"
    )


# One message waits for its reply, and the reply is shown; many are pipelined and only counted.


async def _one(settings: Settings, topic: str, options: dict[str, Any]) -> int:
    async with settings.publisher() as publisher:
        payload = _filled(_decoded(_payload(options), options), options, 1)
        details = _details(options)
        if options["is_waiting"] or options["receipt"]:
            await reach(publisher, settings.timeout)
            return await _deliver(
                settings, publisher, topic=topic, payload=payload, options=options
            )
        published = await publisher.publish(topic, payload, timeout=settings.timeout, **details)
        _show(settings, published)
        return 0


async def _deliver(
    settings: Settings, publisher: Publisher, *, topic: str, payload: bytes, options: dict[str, Any]
) -> int:
    """Publish and wait for receivers; return the exit code."""
    details = _details(options)
    exit_code = 0
    try:
        receipt = await publisher.deliver(
            topic,
            payload,
            timeout=settings.timeout,
            quorum=quorum_of(options["quorum"]),
            unique=details["unique"],
            headers=details["headers"],
            exclude=details["exclude"],
        )
    except NotDelivered as error:
        click.echo(f"gearhorn: {error}", err=True)
        receipt = error.receipt
        exit_code = 3 if receipt.succeeded else 1
    _show_receipt(settings, receipt, options["receipt"])
    return exit_code


def _show(settings: Settings, published: Published) -> None:
    """Write what became of one message."""
    position = published.position
    if settings.is_json:
        click.echo(encode(_document(published)))
    elif not settings.is_quiet:
        copies = f"{published.copies} cop{'y' if published.copies == 1 else 'ies'}"
        logged = f", logged as {position.sequence}" if position else ""
        dropped = f", dropped: {' '.join(published.dropped)}" if published.dropped else ""
        click.echo(f"{copies}{logged}{dropped}")


def _document(published: Published) -> dict[str, Any]:
    document: dict[str, Any] = {"copies": published.copies, "dropped": published.dropped}
    if published.position is not None:
        document |= published.position._asdict()
    return document


def _show_receipt(settings: Settings, receipt: Receipt, is_whole: bool) -> None:
    """Write what became of a message at each receiver."""
    if settings.is_json:
        results = {name: data.decode(errors="replace") for name, data in receipt.results.items()}
        lists = {
            "copies": receipt.copies,
            "delivered": receipt.delivered,
            "failed": receipt.failed,
            "pending": receipt.pending,
            "dropped": receipt.dropped,
            "results": results,
        }
        click.echo(encode(lists))
    elif is_whole:
        for name in receipt.delivered:
            click.echo(f"{name}\tdelivered")
        for name, reason in receipt.failed.items():
            click.echo(f"{name}\tfailed\t{clean(reason)}")
        for kind in ("pending", "dropped"):
            for name in getattr(receipt, kind):
                click.echo(f"{name}\t{kind}")
    elif not settings.is_quiet:
        click.echo(f"{receipt.succeeded} of {receipt.addressed} receivers have processed it")


async def _messages(topic: str, options: dict[str, Any]) -> AsyncIterator[list[Outgoing]]:
    """Yield the messages of a call that has many, those together that are there at once: lines of a
    payload, a file or standard input, or one payload so many times."""
    details = [*_details(options).values()]  # in the order of ``Outgoing``
    limit, number = options["count"], 0
    is_plain = not (options["template"] or options["is_base64"])

    def outgoing(data: bytes, number: int) -> Outgoing:
        if is_plain:
            return Outgoing(topic, data, *details)
        unique, *others = details
        if unique:
            unique = _filled(unique.encode(), options, number).decode()
        return Outgoing(topic, _filled(_decoded(data, options), options, number), unique, *others)

    if not options["lines"]:
        data = _payload(options)
        for start in range(1, limit + 1, WINDOW):
            yield [outgoing(data, n) for n in range(start, min(start + WINDOW, limit + 1))]
        return
    async for lines in lines_of(_source(options)):
        if limit is not None:
            lines = lines[: limit - number]  # noqa: PLW2901
        yield [outgoing(line, number + place) for place, line in enumerate(lines, 1)]
        number += len(lines)
        if number == limit:
            return


class _Sum:
    """What became of many messages: counts, and the first errors. So a file of any length needs no
    more memory than its window."""

    def __init__(self) -> None:
        self.published = self.copies = self.failed = 0
        self.errors: list[str] = []

    def add(self, results: Results) -> None:
        """Count the results of the messages behind those that are counted."""
        before = self.published + self.failed
        for number, result in enumerate(results, before + 1):
            if isinstance(result, GearhornError):
                self.failed += 1
                if self.failed <= SHOWN:
                    self.errors.append(f"message {number}: {result}")
            else:
                self.published += 1
                self.copies += result.copies


async def _many(settings: Settings, topic: str, options: dict[str, Any]) -> int:
    """Publish many messages; return the exit code.

    Lines are read as they can be sent, and results are summed up after every ``SUMMED`` messages.
    """
    progress = Progress(settings, "messages", options["count"])
    sent, rate, summed = 0, options["rate"], _Sum()
    async with settings.publisher() as publisher:
        many = publisher.begin_many(WINDOW, settings.timeout)
        began_s = time.monotonic()
        async for messages in _messages(topic, options):
            for message in messages:
                await many.add(message)
                if rate:
                    await asyncio.sleep(began_s + sent / rate - time.monotonic())
                sent += 1
                if rate or not sent % STEP:
                    progress.tell(sent)
                if not sent % SUMMED:
                    summed.add(await many.finish())
                    many = publisher.begin_many(WINDOW, settings.timeout)
        summed.add(await many.finish())
    progress.end(sent)
    return _told(settings, summed)


def _told(settings: Settings, found: _Sum) -> int:
    """Write what became of many messages; return the exit code."""
    for error in found.errors:
        click.echo(f"gearhorn: {error}", err=True)
    if found.failed > SHOWN:
        click.echo(f"gearhorn: and {found.failed - SHOWN} more", err=True)
    if settings.is_json:
        counts = {"published": found.published, "failed": found.failed, "copies": found.copies}
        click.echo(encode(counts))
    elif not settings.is_quiet:
        click.echo(f"{found.published} published, {found.copies} copies, {found.failed} failed")
    if not found.failed:
        return 0
    return 3 if found.published else 1
