"""What a server and a size are, whoever writes them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.config import GEARMAN_PORT, parse_server, parse_size
from gearhorn.gearman.server import Server

PORTS = st.integers(1, 65535)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join) | st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
UNITS = {"": 1, "k": 1024, "M": 1024**2, "G": 1024**3}


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("localhost", ("localhost", 4730)),
        ("localhost:4731", ("localhost", 4731)),
        ("localhost/4731", ("localhost", 4731)),
        ("queue-1.example.com.:1", ("queue-1.example.com.", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("host:04730", ("host", 4730)),
        ("[::1]", ("::1", 4730)),
        ("[::1]:4731", ("::1", 4731)),
        ("[::1]/4731", ("::1", 4731)),
        ("[2001:DB8::1.2.3.4]:1", ("2001:DB8::1.2.3.4", 1)),
        ("[fe80::1%eth0]:4731", ("fe80::1%eth0", 4731)),
    ],
)
def test_a_server_is_host_and_port(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":4730",
        "/4730",
        "host:",
        "host/",
        "host:x",
        "host:-1",
        "host:0",
        "host:65536",
        "host:123456",
        "host:4730:4730",
        "host:4730/4730",
        "host:4730 ",
        "host name",
        "host\n",
        "::1",
        "::1:4730",
        "[::1",
        "::1]",
        "[]",
        "[]:4730",
        "[::1]4730",
        "[::1]:0",
        "tcp://host:4730",
    ],
)
def test_what_is_no_server_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got ") as refused:
        parse_server(text)
    got = str(refused.value).partition(", got ")[2]
    assert got == repr(text) or got in text


@pytest.mark.parametrize("text", ["[hello]", "[1.2.3.4]:4730", "[:::]", "[%]", "[::1::]:4730"])
def test_brackets_hold_an_ipv6_address_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*, got "):
        parse_server(text)


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64, "a." + "x" * 64, "\udcff"])
def test_a_host_that_no_lookup_can_take_is_refused(host: str) -> None:
    with pytest.raises(UnicodeError):
        host.encode("idna")  # as Python does before it looks the name up
    with pytest.raises(ValueError, match=r"expected .*, got "):
        parse_server(f"{host}:4730")


@given(HOSTS, PORTS, st.sampled_from(":/"))
def test_any_host_and_port_are_read_as_they_were_written(host: str, port: int, mark: str) -> None:
    assert parse_server(f"{host}{mark}{port}") == (host, port)
    assert parse_server(host) == (host, GEARMAN_PORT)


@given(V6, PORTS)
def test_any_ipv6_address_is_read_in_brackets(host: str, port: int) -> None:
    assert parse_server(f"[{host}]:{port}") == (host, port)
    assert parse_server(f"[{host}]") == (host, GEARMAN_PORT)
    with pytest.raises(ValueError, match="expected"):
        parse_server(host)


@given(HOSTS | V6, PORTS)
def test_a_server_as_it_is_shown_is_that_server_again(host: str, port: int) -> None:
    assert parse_server(str(Server(host, port))) == (host, port)


@given(HOSTS, st.integers().filter(lambda port: not 1 <= port <= 65535))
def test_no_port_is_outside_1_to_65535(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"expected .*, got "):
        parse_server(f"{host}:{port}")


@given(st.text() | st.text(alphabet="[]:/%.-09afz \n"))
def test_any_text_is_a_server_or_a_value_error(text: str) -> None:
    host, port, refusal = "", 0, ""
    try:
        host, port = parse_server(text)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("expected ")
        return
    assert host
    assert not set(host) & set("[]/ \n")
    assert 1 <= port <= 65535
    if ":" in host:
        ipaddress.IPv6Address(host)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("8388608", 8388608),
        ("1k", 1024),
        ("1K", 1024),
        ("8M", 8 * 1024**2),
        ("8MB", 8 * 1024**2),
        ("8MiB", 8 * 1024**2),
        ("8mib", 8 * 1024**2),
        ("8 MiB", 8 * 1024**2),
        (" 1G ", 1024**3),
        ("64b", 64),
        ("007", 7),
    ],
)
def test_a_size_is_bytes_with_or_without_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0M",
        "-1",
        "+1",
        "1.5M",
        "1e6",
        "1T",
        "M",
        "8 M B",
        "8M8",
        "0x10",
        "1_000",
        "∞",
    ],
)
def test_what_is_no_size_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected bytes such as .*, got ") as refused:
        parse_size(text)
    assert str(refused.value).endswith(f"got {text!r}")


@given(
    st.integers(1, 10**15 - 1),
    st.sampled_from(list(UNITS)),
    st.sampled_from(["", "B", "iB", "ib"]),
    st.sampled_from([str.lower, str.upper, str]),
)
def test_any_number_of_any_unit_is_that_many_bytes(
    number: int, unit: str, suffix: str, case: type[str]
) -> None:
    assert parse_size(case(f"{number}{unit}{suffix}")) == number * UNITS[unit]


@given(st.text() | st.text(alphabet="0123456789kKmMgGiIbB .-\n"))
def test_any_text_is_a_size_above_zero_or_a_value_error(text: str) -> None:
    size, refusal = 0, ""
    try:
        size = parse_size(text)
    except ValueError as error:
        refusal = str(error)
    assert size >= 1 or refusal.startswith("expected bytes")
