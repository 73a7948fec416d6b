"""A process that listens to what is not kept: NATS core with nats-py, Redis pub/sub with redis-py.

Rules: it is ready when the server has all of its subscriptions. Both servers send whatever is
published at once, and hold what this process has not read yet.
"""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import redis
from nats.aio.msg import Msg
from support.servers import HOST

from benchmarks import numbered, programs
from benchmarks.raw import ANSWER_S
from benchmarks.reception import Reception


async def _nats(told: dict[str, Any], reception: Reception[str]) -> None:
    over = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        reception.took(message.subject, numbered.sequence_of(message.data))
        if not reception.left and reception.is_over():
            over.set_result(None)

    async def failed(error: Exception) -> None:
        if not over.done():
            over.set_exception(error)

    client = await nats.connect(f"nats://{HOST}:{told['port']}", error_cb=failed)
    for topic in told["topics"]:
        await client.subscribe(topic, cb=take)
    await client.flush()
    programs.answer("ready")
    try:
        await asyncio.wait_for(over, ANSWER_S)
    except TimeoutError:
        raise RuntimeError(f"it takes too long: {reception.missing()}") from None
    await client.close()


def _redis(told: dict[str, Any], reception: Reception[str]) -> None:
    client = redis.Redis(HOST, told["port"], socket_timeout=ANSWER_S)
    with client, client.pubsub(ignore_subscribe_messages=False) as pubsub:
        pubsub.subscribe(*told["topics"])
        for _ in told["topics"]:
            pubsub.get_message(timeout=ANSWER_S)
        programs.answer("ready")
        for message in pubsub.listen():
            data = message["data"]
            reception.took(message["channel"].decode(), numbered.sequence_of(data))
            if not reception.left and reception.is_over():
                return


def main() -> None:
    """Listen to what the settings say."""
    told = programs.settings()
    reception = Reception(told["topics"], told["each"], told["pids"])
    if told["peer"] == "nats":
        asyncio.run(_nats(told, reception))
    else:
        _redis(told, reception)
    programs.answer(reception.result())


if __name__ == "__main__":
    main()
