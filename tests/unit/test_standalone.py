"""What ``--standalone`` understands of the servers that it starts."""

from __future__ import annotations

import re

import pytest

from gearhorn.standalone.servers import JOB_SERVER_ANSWER


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        (b"OK 4711\nOK 1.1.20+ds\n", b"1.1.20+ds"),
        (b"OK 4711\r\nOK gear-0.16.0\r\n", b"gear-0.16.0"),
        (b"OK 4711\nOK \n", b""),  # gearmand 2.0.0
        (b"OK 4711\nOK\r\n", b""),
    ],
)
def test_a_job_server_may_tell_its_version_or_not(answer: bytes, version: bytes) -> None:
    match = re.search(JOB_SERVER_ANSWER, answer)
    assert match is not None
    assert (match["pid"], match["version"]) == (b"4711", version)


def test_half_an_answer_is_none() -> None:
    assert re.search(JOB_SERVER_ANSWER, b"OK 4711\nOK 1.1") is None
