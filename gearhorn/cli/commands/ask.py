"""``gearhorn ask``: publish a message, and show what each host answers.

Rules: exit code 3 where a host has failed or not answered, 1 where none has answered.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from gearhorn.aio import Answers
from gearhorn.cli.commands.settings import Settings, topic_argument, wait, with_settings
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
    data = sys.stdin.buffer.read() if payload == "-" else (payload or "").encode()
    return wait(_ask(settings, topic, data, options))


async def _ask(settings: Settings, topic: str, data: bytes, options: dict[str, Any]) -> int:
    headers = {
        name.strip(): value.strip()
        for name, _, value in (text.partition(":") for text in options["headers"])
    }
    quorum = options["quorum"]
    async with settings.publisher() as publisher:
        answers = await publisher.ask(
            topic,
            data,
            timeout=settings.timeout,
            quorum=int(quorum) if quorum and quorum.isdigit() else quorum,
            exclude=options["exclude"],
            headers=headers or None,
        )
    if settings.is_json:
        click.echo(encode(_document(answers)))
    else:
        _show(settings, answers, options["only_missing"])
    return _code(answers)


def _document(answers: Answers) -> dict[str, Any]:
    texts = {name: answer.data.decode(errors="replace") for name, answer in answers.items()}
    return {"answers": texts, "failed": answers.failed, "missing": answers.missing}


def _show(settings: Settings, answers: Answers, only_missing: bool) -> None:
    """Write a line for each host, and how many have answered."""
    if not only_missing:
        for name, answer in sorted(answers.items()):
            click.echo(f"{name}\t{answer.data.decode(errors='replace')}")
        for name, reason in sorted(answers.failed.items()):
            click.echo(f"{name}\tfailed\t{reason}")
    for name in answers.missing:
        click.echo(name if only_missing else f"{name}\tno answer in {settings.timeout:g} s")
    total = answers.receipt.addressed
    if not total:
        settings.say("nobody is subscribed")
    elif not only_missing:
        settings.say(f"{len(answers)} of {total} answered")


def _code(answers: Answers) -> int:
    if len(answers) == answers.receipt.addressed:
        return 0
    return 3 if answers else 1
