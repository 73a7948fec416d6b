"""The configuration of one worker, as values that were checked already.

Rules: no parsing of files or arguments here (that is ``cli``), only meaning: what a server or a
size is, and what each default is. Every ``parse_`` function raises ``ValueError`` with a text that
says what was expected and what came instead, for the command to show.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

GEARMAN_PORT = 4730  # IANA
# Five have a purpose of their own (two for members, appends, lanes, listening); three are the pool
# for all else, in which a long list and a change must not wait for each other.
MIN_STORE_CONNECTIONS = 8
DEFAULT_REDIS = "redis://localhost:6379/0"

_SERVER = re.compile(
    r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:/\s]+))(?:[:/](?P<port>\d{1,5}))?\Z", re.ASCII
)

_URL = re.compile(r"@|(redis|rediss|unix):")


@dataclass(frozen=True, slots=True)
class Config:
    """What a worker is told: docs/operations.rst has a row for each. Sizes are in bytes, times in
    seconds.

    Values that only their own part can judge are texts or paths here: a store's URL
    (``store.url``), certificates (``gearman.tls``). All values are fixed for the life of a worker.
    """

    servers: tuple[tuple[str, int], ...] = (("localhost", GEARMAN_PORT),)
    redis: str = field(default=DEFAULT_REDIS, repr=False)  # may hold a password
    store_connections: int = 16
    namespace: str = "gearhorn"
    fanout_function: str = "fanout"
    subscribe_function: str = "subscribe_fanout"
    register_function: str = "register_fanout_subscriber"
    unsubscribe_function: str = "unsubscribe_fanout"
    describe_function: str = "describe_fanout"
    retain_function: str = "retain_fanout"
    fetch_function: str = "fetch_fanout"
    parked_function: str = "parked_fanout"
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    lease: float = 10.0  # docs/protocol.rst, "Between workers"
    serve_stale: float = 0.0
    gossip_interval: float = 1.0
    max_payload: int = 8 * 1024 * 1024  # docs/protocol.rst, "Requests, replies, errors"
    max_fanout_bytes: int = 1024 * 1024 * 1024
    max_foreground: int = 10_000
    max_backlog: int = 100_000  # docs/protocol.rst, "subscribe_fanout"
    max_cached: int = 2_000_000  # subscriptions; about 250 bytes each


def parse_server(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or gearhorn 0.0.5's
    ``HOST/PORT``; the port is 4730 unless it is given.

    A name is only checked for what could never be looked up; whether it can be is found out when it
    is connected to, again and again. An IPv6 address has brackets, or its last group would be taken
    for a port.

    Raises ``ValueError`` with what was expected. A text that may be a URL is not repeated.
    """
    match = _SERVER.match(text)
    try:
        if match is None:
            raise ValueError
        if match["v6"]:
            ipaddress.IPv6Address(match["v6"])
        else:
            match["host"].encode("idna")  # as every look-up of the name would
    except ValueError:
        # the store's URL at the wrong place may hold a password
        came = "a URL" if _URL.search(text) else repr(text)
        raise ValueError(f"expected HOST, HOST:PORT or [IPV6]:PORT, got {came}") from None
    port = int(match["port"] or GEARMAN_PORT)
    if not 1 <= port <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, got {port}")
    return match["v6"] or match["host"], port


def parse_seconds(text: str, minimum: float, limit: float) -> float:
    """Return a number of seconds within bounds, both included; raises ``ValueError`` with what was
    expected."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")  # which is within no bounds, as a "nan" that was typed
    if minimum <= seconds <= limit:
        return seconds
    raise ValueError(f"expected seconds from {minimum:g} to {limit:g}, got {text!r}")


_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)(?:i?b)?\Z", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return bytes from ``8388608``, ``8M`` or ``8MiB``; raises ``ValueError``, for 0 too.

    Units are powers of 1024, with or without the ``i``: that is what is meant by those who write
    sizes of memory.
    """
    match = _SIZE.match(text.strip())
    if match is None or not int(match[1]):
        raise ValueError(f"expected bytes such as 8388608 or 8M, got {text!r}")
    return int(match[1]) * _UNITS[match[2].lower()]
