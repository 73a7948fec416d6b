"""What ``--json`` writes has the shapes of docs/command.rst."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.servers import Gearmand, Redis

from gearhorn.cli.commands.main import outcome

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "command.rst"
TYPES: dict[str, Any] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "any": object,
}


def shapes() -> dict[str, Any]:
    """The shapes of the document, by the first command that each is headed with."""
    text = DOCUMENT.read_text().partition("What ``--json`` writes\n")[2]
    found = re.findall(r"(?m)^``([^`]+)``.*::\n\n((?:    .*\n)+)", text)
    return {name: json.loads(shape) for name, shape in found}


SHAPES = shapes()


def fits(shape: Any, value: Any, where: str = "") -> None:
    """Fail unless a value has a shape, and nothing besides."""
    if isinstance(shape, str):
        assert any(isinstance(value, TYPES[one]) for one in shape.split("|")), f"{where}: {value!r}"
        if "boolean" not in shape and "any" not in shape:
            assert not isinstance(value, bool), where
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for one in value:
            fits(shape[0], one, f"{where}[]")
    elif "*" in shape:
        assert isinstance(value, dict), where
        for key, one in value.items():
            fits(shape["*"], one, f"{where}.{key}")
    else:
        names = {name.removesuffix("?"): one for name, one in shape.items()}
        needed = {name for name in shape if not name.endswith("?")}
        assert needed <= set(value) <= set(names), f"{where}: {sorted(value)}"
        for key, one in value.items():
            fits(names[key], one, f"{where}.{key}")


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Topic t with a durable subscription that parks everything, and a direct one."""
    shared = Cluster([Gearmand()], Redis())
    shared.subscribe("t", "a", durable={"max_attempts": 1})
    shared.subscribe("t", "b", envelope=True)
    shared.receiver("t_a", behave=lambda wire, job: wire.fail(job.handle))
    yield shared
    shared.close()


CALLS = [
    ("publish", "publish t x -H k:v"),
    ("publish", "publish t x"),
    ("publish --lines", "publish t x --count 2"),
    ("publish --wait", "publish t x --wait --timeout 0.3"),
    ("ask", "ask t x --timeout 0.3"),
    ("listen", "log t"),
    ("listen", "listen t --as b --count 1"),
    ("subscribe", "subscribe s c --durable --ttl 60"),
    ("show TOPIC CLIENT", "show s c"),
    ("pause", "pause s c"),
    ("pause", "resume s c"),
    ("unsubscribe", "unsubscribe s c"),
    ("unsubscribe", "drain t none -y"),
    ("retain", "retain t --max-age 600"),
    ("topics", "topics"),
    ("show TOPIC", "show t"),
    ("show TOPIC CLIENT", "show t a"),
    ("show TOPIC CLIENT", "show t b"),
    ("members", "members"),
    ("top", "top --interval 0.2"),
    ("explain", "explain t"),
    ("trace", "trace t 1"),
    ("parked", "parked"),
    ("parked", "parked list t"),
    ("parked list TOPIC CLIENT", "parked list t a"),
    ("parked redrive", "parked redrive t a --limit 1"),
    ("parked purge", "parked purge t a -y --limit 1"),
    ("check", "check cluster"),
    ("check", "check topic none"),
    ("bench publish", "bench publish --count 5"),
    ("bench ask", "bench ask --count 2"),
    ("context ls", "context ls"),
    ("context show", "context show"),
    ("doctor", "doctor"),
]


def test_every_shape_is_tried() -> None:
    assert {name for name, _ in CALLS} == set(SHAPES)


def test_every_document_has_its_shape(
    trio: Cluster,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert outcome(["context", "add", "here", trio.address, "--tls-ca", "/ca"]) == 0
    monkeypatch.setenv("GEARHORN_CONTEXT", "-")
    monkeypatch.setenv("GEARHORN_SERVERS", trio.address)

    def document(call: str) -> Any:
        capfd.readouterr()
        outcome([*call.split(), "--json"])
        # in tests the client's log may stand on standard output before it
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    for name, call in CALLS:
        if call == "parked":
            eventually(lambda: document("parked list t a"))
        fits(SHAPES[name], document("context show here" if call == "context show" else call), call)
