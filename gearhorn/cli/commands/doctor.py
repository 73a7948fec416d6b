"""``gearhorn doctor``: looks at everything, and says what is wrong and what to do.

Theory of operation. Each part is asked what it knows itself: the job servers by their text
commands, from here; the members, what they tell of themselves and of the store; the workers, page
by page, which subscriptions there are. The job servers come first, and without one that answers
nothing else is asked: so a doctor that finds nothing well ends at once. What each answer means is
``findings``'.

Rules: nothing is changed. Memory is bounded by the job servers' tables, whatever the number of
subscriptions. Exit codes: 0 all is well; 1 something FAILs; 3 warnings only; 4 no job server, or no
worker, answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.text import Text

from gearhorn.aio import Admin
from gearhorn.cli.commands.findings import (
    FAIL,
    OK,
    WARN,
    Finding,
    Findings,
    Queues,
    of_clocks,
    of_members,
    of_servers,
    of_store,
)
from gearhorn.cli.commands.output import Column, console, show
from gearhorn.cli.commands.progress import Progress
from gearhorn.cli.commands.servers import Asked, ask_servers, named_by
from gearhorn.cli.commands.settings import Settings, wait, with_settings
from gearhorn.client.settings import servers_of
from gearhorn.errors import NotConnected, RequestError, Unsure

PAGE = 1000  # subscriptions
NO_ANSWER = 4
_CODES = {OK: 0, WARN: 3, FAIL: 1}
_COLUMNS = [Column(key) for key in ("level", "check", "subject", "text", "todo")]
_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@click.command("doctor")
@with_settings
def doctor_command(settings: Settings) -> int:
    """Look at job servers, workers, store and queues, and say what to do about what is wrong.

    Exit codes: 0 all is well; 1 something FAILs; 3 there are warnings; 4 no job server, or no
    worker, answers.
    """
    findings = Findings()
    is_answered = wait(_Doctor(settings, findings).run())
    _show(settings, findings)
    return _CODES[findings.level] if is_answered else NO_ANSWER


class _Doctor:
    """One call of ``gearhorn doctor``."""

    def __init__(self, settings: Settings, findings: Findings) -> None:
        self._settings = settings
        self._findings = findings

    async def run(self) -> bool:
        """Look at everything; return whether a worker has answered."""
        unconnected = self._settings.admin()  # refuses wrong options before anything is asked
        here = {str(server) for server in servers_of(self._settings.servers)}
        asked = await self._ask(here)
        if all(answer.error for answer in asked.values()):
            self._add(of_servers(asked, ()))
            return False
        async with unconnected as admin:
            began = time.time()
            try:
                # asked once: what a worker without a store says is an answer here
                page = await admin.ask(admin.functions.describe, is_repeatable=False, limit=1)
            except (NotConnected, Unsure, RequestError) as error:
                self._add(of_servers(asked, ()))
                self._findings.add(_unanswered(error))
                return isinstance(error, RequestError)
            # the moment at which the member told its time lies between the two readings
            now = time.time()
            members = page["members"]
            at = members[0].get("at", now)
            here_s = began - at if at < began else now - at if at > now else 0.0
            named = named_by(members)
            asked |= await self._ask(named - here)
            self._add(of_servers(asked, members))
            self._add(of_members(members))
            self._add(of_clocks(members, here_s))
            self._add(of_store(members))
            queues = Queues({name: asked[name] for name in named}, members, self._findings)
            await self._see_all(admin, queues)
        queues.finish()
        return True

    async def _ask(self, names: Iterable[str]) -> dict[str, Asked]:
        settings = self._settings
        return await ask_servers(names, settings.tls, timeout_s=settings.timeout, with_hosts=True)

    async def _see_all(self, admin: Admin, queues: Queues) -> None:
        """Give every subscription to ``queues``, those of patterns too, page by page."""
        progress = Progress(self._settings, "subscriptions")
        cursor = None
        while True:
            page = await admin.ask(admin.functions.describe, limit=PAGE, cursor=cursor)
            for topic, found in _topics(page):
                for client, subscription in found["subscriptions"].items():
                    queues.see(topic, client, subscription)
            progress.tell(queues.count)
            cursor = page.get("cursor")
            if cursor is None:
                progress.end(queues.count)
                return

    def _add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._findings.add(finding)


def _topics(page: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [*page["topics"].items(), *page.get("patterns", {}).items()]


def _unanswered(error: Exception) -> Finding:
    """Return what it means that the workers have not told of themselves."""
    if isinstance(error, RequestError):
        todo = "look at the store, and at the workers' log"
        return Finding(FAIL, "store", "", f"a worker answers: {error}", todo)
    todo = "is a gearhorn-worker running behind these job servers? Look at its log"
    return Finding(FAIL, "members", "", f"no worker answers: {error}", todo)


def _show(settings: Settings, findings: Findings) -> None:
    """Write the findings: a line each, and at a terminal what to do beneath it, never cut."""
    rows = [finding._asdict() for finding in findings.all()]
    if settings.is_json or settings.columns or not sys.stdout.isatty():
        show(settings, _COLUMNS, rows, {"level": findings.level, "findings": rows})
        return
    terminal = console(settings)
    for row in rows:
        what = f"{row['check']} {row['subject']}".rstrip()
        line = Text(f"{row['level']:<5} ", style=_STYLES[row["level"]])
        terminal.print(line + Text(f"{what}: {row['text']}", style="default"))
        if row["todo"]:
            terminal.print(Text(f"      -> {row['todo']}"))
