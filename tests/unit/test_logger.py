"""Events go to structlog in a worker, and to the application's logging elsewhere."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from gearhorn import logger

log = logger.get_logger(__name__)


@pytest.fixture
def _standard() -> Iterator[None]:
    logger.write_with(None)
    yield
    logger.write_with(structlog.get_logger)


@pytest.mark.usefixtures("_standard")
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_without_a_worker_events_are_records_of_one_logger(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gearhorn")
    getattr(log, level)("it happened", server="web1:4730", body=b"\xff", count=3)
    [record] = caplog.records
    assert record.name == "gearhorn"
    assert record.levelname == level.upper()
    assert record.getMessage() == r"it happened server=web1:4730 body=\xff count=3"


@pytest.mark.usefixtures("_standard")
def test_an_exception_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("why")
    log.error("it failed", exc_info=error)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.getMessage() == "it failed"


@pytest.mark.usefixtures("_standard")
def test_a_level_that_is_off_costs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    class Untold:
        def __str__(self) -> str:
            raise AssertionError

    caplog.set_level(logging.WARNING, "gearhorn")
    log.info("it happened", what=Untold())
    assert caplog.records == []


def test_in_a_worker_events_are_structlogs() -> None:
    with capture_logs() as events:
        log.warning("it happened", server="web1:4730")
    assert events == [{"event": "it happened", "log_level": "warning", "server": "web1:4730"}]


def test_links_and_tasks_import_no_structlog() -> None:
    script = (
        "import sys; import gearhorn.gearman.client, gearhorn.gearman.worker, gearhorn.tasks; "
        "print(*{'structlog', 'redis', 'hiredis', 'click'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.split() == []
