"""Types of options: which texts they take, and what they say of others."""

from __future__ import annotations

from typing import Any

import click
import pytest

from gearhorn.cli import options


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (options.SERVER, "[::1]:2", ("::1", 2)),
        (options.SIZE, "8M", 8 << 20),
        (options.FUNCTION, "fanout", "fanout"),
        (options.NAMESPACE, "gearhorn-2", "gearhorn-2"),
        (options.LEASE, "0.5", 0.5),
        (options.STALE, "0", 0.0),
        (options.INTERVAL, "3600", 3600.0),
        (options.COUNT, "1", 1),
        (options.CONNECTIONS, "8", 8),
    ],
)
def test_a_text_becomes_a_value(kind: Any, text: str, value: Any) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (options.SERVER, "a:b", "HOST"),
        (options.SIZE, "0", "bytes"),
        (options.FUNCTION, "a b", "a function name"),
        (options.FUNCTION, "\udcff", "a function name"),
        (options.FUNCTION, "", "a function name"),
        (options.NAMESPACE, "", "a word"),
        (options.NAMESPACE, "a{b", "a word"),
        (options.NAMESPACE, "a b", "a word"),
        (options.NAMESPACE, "a\n", "a word"),
        (options.LEASE, "0.4", "seconds from 0.5"),
        (options.STALE, "-1", "seconds from 0"),
        (options.INTERVAL, "nan", "seconds from 0.1"),
    ],
)
def test_a_wrong_text_says_what_was_expected(kind: Any, text: str, expected: str) -> None:
    with pytest.raises(click.BadParameter, match=f"expected {expected}"):
        kind.convert(text, None, None)


def test_a_default_is_a_value_already() -> None:
    assert options.SERVER.convert(("host", 1), None, None) == ("host", 1)
