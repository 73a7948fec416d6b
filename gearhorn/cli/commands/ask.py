"""``gearhorn ask``: publish a message, and show what each host answers.

Rules: exit code 3 where a host has failed or not answered, 1 where none has answered.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gearhorn.aio import Answer, Failure
from gearhorn.cli.commands.settings import Settings, reach, topic_argument, wait, with_settings
from gearhorn.cli.commands.values import clean, headers_of, quorum_of
from gearhorn.messages.codec import encode


@click.command("ask")
@topic_argument
@click.argument("payload", required=False)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE")
@click.option("--exclude", multiple=True, metavar="CLIENT", help="It is not asked.")
@click.option("--quorum", metavar="N|N%", help="So many answers are enough.")
@click.option("--only-missing", is_flag=True, help="Name only those that have not answered.")
@with_settings
def ask_command(settings: Settings, topic: str, payload: str | None, **options: Any) -> int:
    """Publish PAYLOAD to TOPIC and show what each subscribed host answers within --timeout."""
    data = sys.stdin.buffer.read() if payload == "-" else os.fsencode(payload or "")
    return wait(_ask(settings, topic, data, options))


async def _ask(settings: Settings, topic: str, data: bytes, options: dict[str, Any]) -> int:
    """Ask, and write each answer as it comes; return the exit code."""
    found: list[Answer | Failure] = []
    async with settings.publisher() as publisher:
        await reach(publisher, settings.timeout)
        answers = publisher.ask_iter(
            topic,
            data,
            timeout=settings.timeout,
            quorum=quorum_of(options["quorum"]),
            exclude=options["exclude"],
            headers=headers_of(options["headers"]),
        )
        async for answer in answers:
            found.append(answer)
            if not settings.is_json:
                _show(answer, options["only_missing"])
    answered = sum(isinstance(answer, Answer) for answer in found)
    if settings.is_json:
        click.echo(encode(_document(found)))
    elif not found:
        settings.say("no host is subscribed")
    elif not options["only_missing"]:
        settings.say(f"{answered} of {len(found)} answered")
    if answered == len(found):
        return 0
    return 3 if answered else 1


def _document(found: list[Answer | Failure]) -> dict[str, Any]:
    """Return what ``--json`` writes: both kinds by client_id."""
    return {
        "answers": {
            answer.client_id: answer.data.decode(errors="replace")
            for answer in found
            if isinstance(answer, Answer)
        },
        "failed": {
            answer.client_id: answer.reason for answer in found if isinstance(answer, Failure)
        },
    }


def _show(answer: Answer | Failure, only_missing: bool) -> None:
    """Write the line of one host; of those that have answered only where all are wanted."""
    took = "" if answer.seconds is None else f"{answer.seconds:.3f} s"
    if isinstance(answer, Failure):
        reason = clean(answer.reason)
        line = answer.client_id if only_missing else f"{answer.client_id}\t{took}\t{reason}"
        click.echo(line)
    elif not only_missing:
        text = clean(answer.data.decode(errors="backslashreplace").rstrip("\n"))
        click.echo(f"{answer.client_id}\t{took}\t{text}")
