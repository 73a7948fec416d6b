"""Fixtures that every kind of test shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings
from support.cluster import Cluster
from support.servers import EmbeddedGearman, Gearmand, Redis, Valkey
from support.standstill import Standstill
from support.tracing import IS_TRACED

from gearhorn import logger

logger.write_with(structlog.get_logger)  # as the worker does, for tests that capture its events

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("gearhorn", deadline=None)
settings.load_profile("gearhorn")

_numbers = itertools.count(1)
PAIRS = [(Gearmand, Redis), (EmbeddedGearman, Valkey)]
PAIR_NAMES = ["gearmand-redis", "standalone"]


# A worker's loop may stand so long in a test that does not say how long it may.
MAY_STAND_S = 0.25


@pytest.fixture(autouse=True)
def _standstills(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which a worker's loop stood still for too long."""
    Standstill.begin()
    yield
    mark = request.node.get_closest_marker("may_stand")
    allowed_s = MAY_STAND_S if mark is None else mark.args[0]
    if IS_TRACED:
        return
    longest_s = Standstill.longest_of_all_s()
    assert longest_s <= allowed_s, f"a worker's loop stood still for {longest_s:.3f} s"


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses."""
    name = str(request.node.name).partition("[")[0]
    return f"{name[-60:].replace('_', '-')}-{next(_numbers)}"


@pytest.fixture(scope="session", params=PAIRS, ids=PAIR_NAMES)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One worker between a job server and a store that all tests share, once with gearmand and
    Redis, once with the embedded pair."""
    job_server, store = request.param
    shared = Cluster([job_server()], store())
    yield shared
    shared.close()


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """Builds clusters of gearmand and Redis that one test may break:
    `make_cluster(workers=1, job_servers=1, options=(), redis=())`; ``redis`` are arguments of the
    store, or a store of another kind."""
    made: list[Cluster] = []

    def make(
        workers: int = 1, job_servers: int = 1, options: tuple[str, ...] = (), redis: Any = ()
    ) -> Cluster:
        servers = [Gearmand() for _ in range(job_servers)]
        store = Redis(*redis) if isinstance(redis, tuple) else redis
        made.append(Cluster(servers, store, workers, options))
        return made[-1]

    yield make
    for one in made:
        one.close()
