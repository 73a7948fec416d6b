"""The plugin for pytest: fixtures that any test may ask for once gearhorn is installed.

``gearhorn`` is a ``Standalone`` that all tests of a run share; with pytest-xdist each of its
processes has one. What a test has made with it is closed behind that test, and what it has killed
or frozen runs again. What it has published to its own topics does not concern the others:
``gearhorn_topic`` is one that no other test uses.

Rules: pytest loads this module in every run, wanted or not. So it imports nothing that pytest has
not, and the rest when a fixture is asked for.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gearhorn import testing

_NAME_LENGTH = 60  # of a test, in its topic: what ``gearhorn topics`` shows stays readable
_OTHER = re.compile(r"[^A-Za-z0-9.]+")


@pytest.fixture(scope="session")
def _gearhorn_servers() -> Iterator[Any]:
    """A job server, a store and a worker for the whole run."""
    with testing.standalone() as running:
        yield running


@pytest.fixture
def gearhorn(_gearhorn_servers: Any) -> Iterator[Any]:
    """A running gearhorn (``gearhorn.testing.Standalone``) that the whole run shares."""
    with _gearhorn_servers.lent() as running:
        yield running


@pytest.fixture
def gearhorn_topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses, in this run or another."""
    return topic_of(request.node.name)


def topic_of(test: str) -> str:
    """Return a new topic that bears the name of a test."""
    name = _OTHER.sub("-", test.partition("[")[0]).strip("-")[-_NAME_LENGTH:]
    return f"{name}-{uuid.uuid4().hex[:8]}"
