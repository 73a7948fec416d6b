"""The embedded job server's connections: how bytes become requests, and what a fault costs."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import gear
import pytest

from gearhorn.standalone import jobserver
from gearhorn.standalone.connection import MAX_LINE, Link
from gearhorn.standalone.jobserver import JobServer

ECHO_REQ, ECHO_RES, GET_STATUS = 16, 17, 15


def packet(kind: int, body: bytes, magic: bytes = b"\0REQ") -> bytes:
    return struct.pack(">4sII", magic, kind, len(body)) + body


@pytest.fixture
def pair() -> Iterator[tuple[Link, socket.socket]]:
    """A link, and the socket of its client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        accepted, address = listening.accept()
    accepted.setblocking(False)
    with theirs, accepted:
        yield Link(address, accepted), theirs


@pytest.fixture
def server() -> Iterator[JobServer]:
    server = JobServer(port=0)
    yield server
    server.shutdown()


def connect(server: JobServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_requests_are_taken_whole_and_the_rest_is_kept(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    whole = packet(ECHO_REQ, b"a\0b") + b"status\r\n" + packet(GET_STATUS, b"")
    link.receive(whole + packet(ECHO_REQ, b"later")[:14])
    assert list(link.requests()) == [(ECHO_REQ, b"a\0b"), (None, b"status\r\n"), (GET_STATUS, b"")]
    assert list(link.requests()) == []
    link.receive(packet(ECHO_REQ, b"later")[14:])
    assert list(link.requests()) == [(ECHO_REQ, b"later")]
    assert not link.received


def test_a_header_may_come_in_pieces(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    found = []
    for byte in packet(ECHO_REQ, b"x"):
        link.receive(bytes([byte]))
        found += list(link.requests())
    assert found == [(ECHO_REQ, b"x")]


@pytest.mark.parametrize("data", [packet(ECHO_REQ, b"", magic=b"\0RES"), b"x" * (MAX_LINE + 1)])
def test_what_is_no_request_is_an_error_behind_what_is(
    pair: tuple[Link, socket.socket], data: bytes
) -> None:
    link, _ = pair
    link.receive(packet(ECHO_REQ, b"") + data)
    requests = link.requests()
    assert next(requests) == (ECHO_REQ, b"")
    with pytest.raises(gear.InvalidDataError):
        next(requests)


def test_answers_leave_with_the_flush_and_the_rest_waits_for_room(
    pair: tuple[Link, socket.socket],
) -> None:
    link, theirs = pair
    link.send(b"a", b"b")
    assert link.unsent == b"ab"
    link.flush()
    assert theirs.recv(10) == b"ab"
    link.send(b"x" * (64 << 20))
    link.flush()
    left = len(link.unsent)
    assert left
    theirs.recv(1 << 20)
    assert len(link.unsent) == left, "it is written by a flush alone"


def test_of_a_connection_that_is_gone_nothing_is_kept(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    link.conn.close()
    link.send(b"a")
    link.flush()
    assert not link.unsent


def test_packets_and_text_are_answered_on_a_connection(server: JobServer) -> None:
    with connect(server) as client:
        client.sendall(packet(ECHO_REQ, b"hello") + b"version\n")
        file = client.makefile("rb")
        assert file.read(17) == packet(ECHO_RES, b"hello", magic=b"\0RES")
        assert file.readline().startswith(b"OK gear-")


def test_a_fault_in_a_handler_ends_its_connection_only(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(body: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(server._commands, "answer", fail)
    with connect(server) as other, connect(server) as client:
        client.sendall(b"status\n")
        assert client.recv(1) == b""
        other.sendall(packet(ECHO_REQ, b""))
        assert other.recv(12) == packet(ECHO_RES, b"", magic=b"\0RES")
    assert "could not be handled" in caplog.text


def test_an_address_that_is_taken_is_an_error(server: JobServer) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        JobServer(port=server.port)


def test_the_program_says_that_its_address_is_taken(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("signal.pthread_sigmask", lambda *_: set())
    assert jobserver.main(["--port", str(server.port)]) == 1
    assert "address already in use" in caplog.text


def test_absent_arguments_are_empty_and_the_last_takes_the_rest() -> None:
    assert jobserver._split(b"a\0b\0c\0d", 3) == [b"a", b"b", b"c\0d"]
    assert jobserver._split(b"a", 3) == [b"a", b"", b""]
    assert jobserver._split(b"a\0b", 1) == [b"a"]
