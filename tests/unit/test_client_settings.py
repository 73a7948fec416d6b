"""Where the job servers are, and what a durable subscription asks for."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

import gearhorn
import gearhorn.aio
from gearhorn.client.settings import TLS, Durable, servers_of
from gearhorn.errors import BadName, InternalError, RequestError, Unavailable, refusal_of


def test_servers_are_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEARHORN_SERVERS", "elsewhere")
    named = servers_of(["a", "b:1234", "[::1]:99"])
    assert list(map(str, named)) == ["a:4730", "b:1234", "[::1]:99"]


@pytest.mark.parametrize("text", ["a b:99", "a, b:99", " a,b:99 "])
def test_then_those_of_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEARHORN_SERVERS", text)
    assert list(map(str, servers_of([]))) == ["a:4730", "b:99"]


def test_then_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEARHORN_SERVERS", raising=False)
    assert list(map(str, servers_of([]))) == ["localhost:4730"]


def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(ValueError, match="a b"):
        servers_of(["a b"])


@pytest.mark.parametrize(
    ("durable", "changed"),
    [
        (Durable(), {}),
        (Durable(start=7), {"start": {"sequence": 7}}),
        (Durable(start={"window": 60.0}), {"start": {"window": 60.0}}),
        (Durable(latest=True, in_flight=3), {"latest": True, "in_flight": 3}),
        (Durable(latest="host"), {"latest": "host"}),
    ],
)
def test_durable_options(durable: Durable, changed: dict[str, object]) -> None:
    plain = {
        "start": "new",
        "in_flight": 1,
        "timeout": 30.0,
        "max_attempts": 20,
        "max_backoff": 3600.0,
        "batch": 1,
        "latest": False,
    }
    assert durable.options() == plain | changed


def test_tls_reads_its_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    own = authority.issue_cert("web1")
    own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own"))
    context = TLS(tmp_path / "ca", tmp_path / "own", tmp_path / "own").context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(OSError, match="missing"):
        TLS(tmp_path / "missing").context()


def test_refusals_are_errors_of_their_own() -> None:
    error = refusal_of("bad_name: topic is empty")
    assert isinstance(error, BadName)
    assert (error.code, error.text) == ("bad_name", "topic is empty")
    assert str(error) == "bad_name: topic is empty"
    assert isinstance(refusal_of("unavailable: the store: OOM"), Unavailable)
    assert isinstance(refusal_of("internal error"), InternalError)
    assert isinstance(refusal_of("who: knows"), RequestError)


def test_every_name_of_the_library_is_there() -> None:
    for name in gearhorn.__all__:
        assert getattr(gearhorn, name).__name__ == name
        assert name in dir(gearhorn)
    assert set(gearhorn.aio.__all__) <= set(gearhorn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'publish'"):
        _ = gearhorn.publish  # type: ignore[attr-defined]
