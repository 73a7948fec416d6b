"""The store's URL: what ``--redis`` says, read and judged.

Rules: pure, but for files of certificates, which are read here. No text that leaves this module
contains a part of the URL: where a URL is malformed, any part of it may be the password's.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

PORT = 6379
_SCHEMES = {"redis", "rediss", "unix"}
_DIGITS = re.compile(r"\d{1,9}\Z", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?\Z", re.ASCII)
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_CHECKS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_TEXTS = {"username", "password", "client_name"}
_NUMBERS = {"db", "protocol"}
_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"}
# redis-py knows them and URLs may have them; gearhorn has limits of its own
_IGNORED_NUMBERS = {
    "socket_timeout",
    "socket_connect_timeout",
    "health_check_interval",
    "max_connections",
}
_IGNORED_TRUTHS = {"socket_keepalive", "retry_on_timeout", "decode_responses"}
_OPTIONS = {
    *(_TEXTS | _NUMBERS | _FILES | _IGNORED_NUMBERS | _IGNORED_TRUTHS),
    *("ssl_cert_reqs", "ssl_check_hostname"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the store is, and as whom it is asked. ``path`` is that of a Unix socket, else ""."""

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    database: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    client_name: str = ""
    tls: ssl.SSLContext | None = None


def parse_url(url: str) -> Address:
    """Return the address that a ``redis://``, ``rediss://`` or ``unix://`` URL names.

    Raises ``ValueError`` that says what was expected, and nothing of what came.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
    except ValueError:
        raise ValueError("expected a port from 1 to 65535 behind the host") from None
    if parts.scheme not in _SCHEMES or not url[len(parts.scheme) :].startswith("://"):
        raise ValueError("expected a redis://, rediss:// or unix:// URL")
    if "#" in url:
        raise ValueError("expected no '#' in the URL; in a password it is written %23")
    options = _options(parts.query)
    username, password = _credentials(parts.netloc, options)
    is_unix = parts.scheme == "unix"
    if is_unix and (not parts.path or parts.path == "/"):
        raise ValueError("expected a path behind unix://")
    if is_unix and parts.netloc.rpartition("@")[2]:
        raise ValueError("expected unix:///PATH, with no host")
    return Address(
        host="" if is_unix else _host(parts.hostname),
        port=port,
        path=unquote(parts.path) if is_unix else "",
        database=_database("" if is_unix else parts.path, options),
        username=username,
        password=password,
        client_name=options.get("client_name", ""),
        tls=_tls(options) if parts.scheme == "rediss" else None,
    )


def _options(query: str) -> dict[str, str]:
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise ValueError(f"expected options of {known} behind the '?', got another one")
        if name in _NUMBERS and not _DIGITS.match(value):
            raise ValueError(f"{name}: expected a whole number")
        if name in _IGNORED_NUMBERS and not _NUMBER.match(value):
            raise ValueError(f"{name}: expected a number")
        if name in _IGNORED_TRUTHS | {"ssl_check_hostname"} and value.lower() not in _TRUTHS:
            raise ValueError(f"{name}: expected true or false")
        if name == "protocol" and value not in ("2", "3"):
            raise ValueError("protocol: expected 2 or 3")
        options[name] = value
    return options


def _credentials(netloc: str, options: dict[str, str]) -> tuple[str, str]:
    username, _, password = netloc.rpartition("@")[0].partition(":")
    return (
        options.get("username", unquote(username)),
        options.get("password", unquote(password)),
    )


def _host(host: str | None) -> str:
    name = unquote(host or "localhost")
    try:
        name.encode("idna")
    except UnicodeError:
        raise ValueError("expected a host name, got what is none") from None
    if not name.isprintable() or " " in name:
        raise ValueError("expected a host name, got what is none")
    return name


def _database(path: str, options: dict[str, str]) -> int:
    text = path.strip("/") or options.get("db", "0")
    if not _DIGITS.match(text):
        raise ValueError("expected a number behind the host, which is the database")
    return int(text)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    files = {name: options.get(name) for name in _FILES}
    try:
        context = ssl.create_default_context(
            cafile=files["ssl_ca_certs"], capath=files["ssl_ca_path"]
        )
        if files["ssl_certfile"]:
            context.load_cert_chain(
                files["ssl_certfile"], files["ssl_keyfile"], password=_no_pass_phrase
            )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        names = ", ".join(sorted(name for name in files if name in options))
        raise ValueError(
            f"{names}: expected files of certificates in PEM: {reason or 'not readable'}"
        ) from None
    checks = options.get("ssl_cert_reqs", "required").lower()
    if checks not in _CHECKS:
        raise ValueError("ssl_cert_reqs: expected none, optional or required")
    is_checked = _TRUTHS[options.get("ssl_check_hostname", "true").lower()]
    context.check_hostname = is_checked and checks == "required"
    context.verify_mode = _CHECKS[checks]
    return context


def _no_pass_phrase() -> str:
    """Refuse what OpenSSL would otherwise ask for on a daemon's terminal."""
    raise ValueError("the key is encrypted")
