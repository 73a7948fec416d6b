"""A list of a million: the loop of the worker turns while it is read, used, described, changed."""

from __future__ import annotations

import json

from support.cluster import Cluster
from support.lists import Meanwhile, fill
from support.servers import Gearmand, Redis
from support.turns import TURN_S, InProcess, Turns

from gearhorn.config import Config, parse_server

COUNT = 1_000_000
OPTIONS = b'{"envelope":true,"max_backlog":50000,"overflow":"drop_old"}'


def test_the_loop_turns_while_a_list_of_a_million_is_used() -> None:
    bed = Cluster([Gearmand()], Redis(), 0)
    try:
        clients = fill(bed.store.url, "plain", COUNT)
        fill(bed.store.url, "options", COUNT, OPTIONS)
        config = Config(
            servers=(parse_server(bed.address),),
            redis=bed.store.url,
            max_fanout_bytes=COUNT,
            max_cached=8 * COUNT,
        )
        with Turns() as turns, InProcess(config):
            others = Meanwhile(bed, "small")
            turns.reset()
            for topic in ("plain", "options"):
                others.during(lambda topic=topic: use(bed, topic, clients))
                assert turns.longest < TURN_S, (topic, turns.what)
                assert others.took
    finally:
        bed.close()


def use(bed: Cluster, topic: str, clients: list[str]) -> None:
    """Do everything but send copies, of which there would be a million."""

    def publish(left: int, **more: object) -> None:
        outcome = bed.run("fanout", 60, topic=topic, payload="xx", background=True, **more)
        assert outcome.warnings[-1].startswith(b"too_large: %d copies" % left), outcome

    publish(COUNT)
    publish(COUNT - 10_000, exclude=clients[5:10_005])
    page = json.loads(bed.run("describe_fanout", 60, topic=topic, limit=10_000).data)
    assert list(page["topics"][topic]["subscriptions"]) == clients[:10_000]
    request = {"topic": topic, "client_id": clients[-1]}
    assert bed.run("unsubscribe_fanout", 60, **request).kind == "complete"
    publish(COUNT - 1)
