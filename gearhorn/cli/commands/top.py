"""``gearhorn top``: the cluster as it is now, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gearhorn.cli.commands.output import Column, console, duration, show, write_json
from gearhorn.cli.commands.settings import Settings, wait, with_settings
from gearhorn.cli.commands.topics import MEMBERS, TOPICS, member_row, topic_row
from gearhorn.cli.commands.values import SECONDS, clean
from gearhorn.client.admin import Admin

SHOWN = 30  # topics
LEAST_S = 0.2  # between two readings
RATES = [Column("fanouts_s", is_number=True), Column("copies_s", is_number=True)]


@click.command("top")
@click.option("--interval", type=SECONDS, default=1.0, metavar="SECONDS")
@click.option("--once", is_flag=True, help="Show it once.")
@click.option("--sort", type=click.Choice(["lag", "parked", "backlog", "drops"]), default="lag")
@with_settings
def top_command(settings: Settings, interval: float, once: bool, sort: str) -> None:
    """Show workers and topics: rates, lag and backlog, every --interval."""
    is_once = once or settings.is_json or not sys.stdout.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        wait(_Top(settings, max(LEAST_S, interval), sort).run(is_once))


class _Top:
    """One call of ``gearhorn top``.

    Workers tell counts since they began. A rate is the difference of two readings, by this
    program's clock; a worker that began anew in between has a rate of 0 once.
    """

    def __init__(self, settings: Settings, interval_s: float, sort: str) -> None:
        self._settings = settings
        self._interval_s = interval_s
        self._sort = sort
        self._former: dict[str, tuple[float, int, int]] = {}

    async def run(self, is_once: bool) -> None:
        async with self._settings.admin() as admin:
            found = await self._look(admin)
            if is_once:
                await asyncio.sleep(self._interval_s)
                found = await self._look(admin)
                self._write(found)
                return
            with Live(self._drawn(found), console=console(self._settings), screen=True) as live:
                while True:
                    await asyncio.sleep(self._interval_s)
                    found = await self._look(admin)
                    live.update(self._drawn(found))

    def _write(self, found: dict[str, Any]) -> None:
        """Write it once: as tables at a terminal, elsewhere as lines, the topics behind an empty
        one."""
        if self._settings.is_json or sys.stdout.isatty():
            if self._settings.is_json:
                write_json(found)
            else:
                console(self._settings).print(self._drawn(found))
            return
        show(
            self._settings, [*MEMBERS, *RATES], [member_row(member) for member in found["members"]]
        )
        click.echo()
        show(self._settings, TOPICS, [topic_row(topic) for topic in found["topics"]])

    async def _look(self, admin: Admin) -> dict[str, Any]:
        """Return what is so now, with the rates since the last time."""
        now_s = time.monotonic()
        members = await admin.members()
        for member in members:
            counts = member.get("fanouts", 0), member.get("copies", 0)
            before = self._former.get(member["member"])
            if before is not None and now_s > before[0]:
                for key, former, count in zip(
                    ("fanouts_s", "copies_s"), before[1:], counts, strict=True
                ):
                    member[key] = max(0.0, (count - former) / (now_s - before[0]))
            self._former[member["member"]] = (now_s, *counts)
        topics = await admin.topics(sort=self._sort)
        return {"at": time.time(), "members": members, "topics": topics[:SHOWN]}

    def _drawn(self, found: dict[str, Any]) -> Group:
        members = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("MEMBER", "STATE", "UP", "FANOUTS/S", "COPIES/S", "IN FLIGHT", "LANES"):
            members.add_column(name, no_wrap=True)
        for member in found["members"]:
            members.add_row(
                clean(member["member"]),
                member["state"],
                duration(member.get("uptime", 0)),
                f"{member.get('fanouts_s', 0):,.0f}",
                f"{member.get('copies_s', 0):,.0f}",
                str(member.get("in_flight", "")),
                str(member.get("lanes", "")),
            )
        topics = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("TOPIC", "SUBS", "LAG", "BACKLOG", "PARKED", "DROPS"):
            topics.add_column(name, no_wrap=True)
        for topic in found["topics"]:
            keys = ("subscriptions", "lag_max", "backlog", "parked", "drops")
            topics.add_row(Text(clean(topic["topic"])), *(str(topic.get(key, 0)) for key in keys))
        return Group(members, Text(), topics)
