"""``gearhorn bench``: what this cluster does, from here.

Rules: figures of one program beside others on one machine; scripts/bench in the source compares.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from typing import Any

import click

from gearhorn.aio import Message, Subscriber
from gearhorn.cli.commands.settings import Settings, wait, with_settings
from gearhorn.messages.codec import encode

CLIENTS = 10


# Topics have random names and subscriptions a ttl of a minute: what a measurement that was killed
# leaves behind ends by itself.


def _show(settings: Settings, found: dict[str, Any], text: str) -> None:
    click.echo(encode(found) if settings.is_json else text)


@click.group("bench")
def bench_command() -> None:
    """Measure what this cluster does, on topics that end with it."""


@bench_command.command("publish")
@click.option("--count", type=click.IntRange(min=1), default=10_000)
@click.option("--size", type=click.IntRange(min=0), default=100, help="Bytes of a payload.")
@with_settings
def publish_command(settings: Settings, count: int, size: int) -> None:
    """How many messages a second can be published, to nobody."""

    async def run() -> float:
        topic = f"bench-{secrets.token_hex(4)}"
        async with settings.publisher() as publisher:
            await publisher.publish(topic)
            began_s = time.monotonic()
            (await publisher.publish_many((topic, b"x" * size) for _ in range(count))).raise_any()
            return count / (time.monotonic() - began_s)

    rate = wait(run())
    _show(settings, {"messages_per_second": rate}, f"{rate:,.0f} messages/s")


@bench_command.command("deliver")
@click.option("--count", type=click.IntRange(min=1), default=5_000)
@click.option("--size", type=click.IntRange(min=0), default=100, help="Bytes of a payload.")
@click.option("--durable", is_flag=True)
@with_settings
def deliver_command(settings: Settings, count: int, size: int, durable: bool) -> None:
    """How many messages a second come to one subscriber."""

    async def run() -> float:
        topic = f"bench-{secrets.token_hex(4)}"
        subscriber = Subscriber("bench", *settings.servers, tls=settings.tls, prefetch=256)
        came, done = 0, asyncio.Event()

        @subscriber.on(topic, durable=durable, ttl=60)
        async def take(message: Message) -> None:
            nonlocal came
            came += 1
            if came == count:
                done.set()

        async with settings.publisher() as publisher:
            await subscriber.start()
            try:
                began_s = time.monotonic()
                messages = ((topic, b"x" * size) for _ in range(count))
                (await publisher.publish_many(messages)).raise_any()
                await asyncio.wait_for(done.wait(), settings.timeout)
                return count / (time.monotonic() - began_s)
            finally:
                await subscriber.stop(unsubscribe=True)

    rate = wait(run())
    _show(settings, {"messages_per_second": rate}, f"{rate:,.0f} messages/s")


@bench_command.command("ask")
@click.option("--count", type=click.IntRange(min=1), default=200)
@with_settings
def ask_command(settings: Settings, count: int) -> None:
    """How long it takes to ask ten hosts, all of which are in this process."""

    async def run() -> list[float]:
        topic = f"bench-{secrets.token_hex(4)}"
        hosts = [
            Subscriber(f"host{number}", *settings.servers, tls=settings.tls)
            for number in range(CLIENTS)
        ]

        async def answer(message: Message) -> str:
            return "ok"

        async with settings.publisher() as publisher:
            for host in hosts:
                host.on(topic, ttl=60)(answer)
                await host.start()
            try:
                took = []
                for _ in range(count):
                    began_s = time.monotonic()
                    await publisher.ask(topic, timeout=settings.timeout)
                    took.append(time.monotonic() - began_s)
                return took
            finally:
                for host in hosts:
                    await host.stop(unsubscribe=True)

    took = wait(run())
    p50 = statistics.median(took)
    p99 = sorted(took)[int((len(took) - 1) * 0.99)]
    text = f"{CLIENTS} hosts answer in {p50 * 1000:.2f} ms (p50), {p99 * 1000:.2f} ms (p99)"
    _show(settings, {"p50_seconds": p50, "p99_seconds": p99}, text)
