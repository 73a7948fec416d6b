"""Settings of the library: where the job servers are, and what a subscription asks for.

Rules: values only. Nothing is connected here.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gearhorn.config import GEARMAN_PORT, parse_server
from gearhorn.gearman.server import Server

SERVERS_VARIABLE = "GEARHORN_SERVERS"  # "HOST:PORT HOST:PORT", parted by spaces or commas


class Functions(NamedTuple):
    """The names of the workers' functions, where an operator has changed them.

    They are the ``--…-function`` options of ``gearhorn-worker``. Two installations of gearhorn that
    share job servers tell their requests apart by them.
    """

    fanout: str = "fanout"
    subscribe: str = "subscribe_fanout"
    unsubscribe: str = "unsubscribe_fanout"
    describe: str = "describe_fanout"
    retain: str = "retain_fanout"
    fetch: str = "fetch_fanout"
    parked: str = "parked_fanout"


@dataclass(frozen=True)
class TLS:
    """What verifies the job servers, and what this program shows them.

    Arguments:
        ca: a file of certificates to trust; None: those of the system.
        cert: this program's certificate, where the servers ask for one.
        key: its private key, which must not be encrypted.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what connections are made with; raises ``OSError`` naming what is no good."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except OSError as error:
            raise OSError(f"ca {self.ca}: {error}") from None
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password="")
            except OSError as error:
                raise OSError(f"cert {self.cert}, key {self.key}: {error}") from None
        return context


def context_of(tls: TLS | None) -> ssl.SSLContext | None:
    """Return what connections are made with; None: in plain text. Raises ``OSError`` as
    ``TLS.context`` does."""
    return None if tls is None else tls.context()


@dataclass(frozen=True)
class Durable:
    """Options of a durable subscription ("Durable topics" in docs/protocol.rst).

    Arguments:
        start: where a new subscription begins: "new", "all", "last", a sequence, or
            ``{"window": SECONDS}``.
        in_flight: messages that may be under way at once.
        timeout: seconds that a handler has for one message, or one batch.
        max_attempts: of a message, then it is parked; 0: without end.
        max_backoff: seconds between two attempts, at most.
        batch: messages in one delivery, at most.
        latest: deliver the newest message only; the name of a header: the newest of each value.
    """

    start: str | int | dict[str, float] = "new"
    in_flight: int = 1
    timeout: float = 30.0
    max_attempts: int = 20
    max_backoff: float = 3600.0
    batch: int = 1
    latest: bool | str = False

    def options(self) -> dict[str, Any]:
        """Return the value of ``durable`` in a subscribe."""
        start = {"sequence": self.start} if isinstance(self.start, int) else self.start
        return {
            "start": start,
            "in_flight": self.in_flight,
            "timeout": self.timeout,
            "max_attempts": self.max_attempts,
            "max_backoff": self.max_backoff,
            "batch": self.batch,
            "latest": self.latest,
        }


def servers_of(given: Sequence[str]) -> list[Server]:
    """Return the job servers that were named, else those of the environment, else this host's.

    Arguments:
        given: "HOST", "HOST:PORT" or "[IPV6]:PORT" each.

    Raises ``ValueError`` for what is none of these.
    """
    names = list(given) or os.environ.get(SERVERS_VARIABLE, "").replace(",", " ").split()
    return [Server(*parse_server(name)) for name in names or [f"localhost:{GEARMAN_PORT}"]]
