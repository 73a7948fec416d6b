"""``gearhorn log``: reads the log of a topic, and moves no position."""

from __future__ import annotations

from typing import Any

import click

from gearhorn.aio import Message
from gearhorn.cli.commands.listen import writer_of
from gearhorn.cli.commands.settings import Settings, topic_argument, wait, with_settings

PAGE = 1000


@click.command("log")
@topic_argument
@click.option("--after", type=int, default=0, metavar="SEQUENCE", help="What follows this one.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="The last N only.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@click.option("--format", "form", metavar="TEXT", help="{topic} {sequence} {payload} {at} ...")
@click.option("--raw", is_flag=True, help="The payload and nothing else.")
@click.option("--headers", is_flag=True, help="Show headers too.")
@with_settings
def log_command(settings: Settings, topic: str, **options: Any) -> None:
    """Read the log of TOPIC."""
    wait(_read(settings, topic, options))


async def _read(settings: Settings, topic: str, options: dict[str, Any]) -> None:
    write = writer_of(settings, options | {"dump": None})
    async with settings.log(topic) as log:
        after = options["after"]
        batch = await log.read(after, limit=1)
        if options["last"] is not None:
            after = max(after, batch.last - options["last"])
        last = batch.last
        while after < last:
            batch = await log.read(after, limit=PAGE)
            if not batch.messages:
                break
            for message in batch.messages:
                if _sequence(message) <= last:
                    write(message)
                after = _sequence(message)
        if options["follow"]:
            async for message in log.follow(start=max(after, last)):
                if message.gap is not None and message.gap.dropped:
                    settings.say(f"{message.gap.dropped} messages were missed")
                write(message)


def _sequence(message: Message) -> int:
    assert message.position is not None
    return message.position.sequence
