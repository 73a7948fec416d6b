"""The store's URL: what ``--redis`` says, read by redis-py and judged here.

redis-py knows the formats that users bring from elsewhere, but accepts a good deal silently: a
``#`` ends the URL in the middle of a password, an option with a typing error changes nothing, a
file of certificates that is missing is noticed at the first connection. A worker that starts with a
URL that does not mean what it seems to would fail later and elsewhere. So everything is checked
here, when the worker starts, and what redis-py would ignore is refused. Options that set redis-py's
own limits are taken and have no effect, so that a URL from another program need not be changed.

Rules: pure, but for files of certificates, which are read here. No text that leaves this module
contains a part of the URL: where a URL is malformed, any part of it may be the password's.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis.asyncio import connection

PORT = 6379
_EXPECTED = "expected a redis://, rediss:// or unix:// URL, with a port from 1 to 65535 if any"
# whether the server's certificate is verified; "optional" is for servers' sides, and verifies too
_CHECKS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_DIGITS = re.compile(r"\d{1,9}", re.ASCII)  # nine fit everywhere; int() would take "٣", too
# A kind of value: what it has to match as a whole, and how a refusal calls it.
_TEXT = (re.compile(".*", re.DOTALL), "a text")
_WHOLE = (_DIGITS, "a whole number")
_NUMBER = (re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII), "a number")
_TRUTH = (re.compile("1|true|yes|0|false|no", re.IGNORECASE), "true or false")
# what may stand behind the '?', and of which kind
_OPTIONS = {
    **dict.fromkeys(("username", "password", "client_name", *_FILES), _TEXT),
    "db": _WHOLE,
    "ssl_cert_reqs": (re.compile("|".join(_CHECKS)), "none, optional or required"),
    "ssl_check_hostname": _TRUTH,
    # these change nothing: gearhorn has limits of its own, and speaks RESP3
    "protocol": (re.compile("2|3"), "2 or 3"),
    **dict.fromkeys(("max_connections", "health_check_interval"), _WHOLE),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _NUMBER),
    **dict.fromkeys(("socket_keepalive", "retry_on_timeout", "decode_responses"), _TRUTH),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the store is, and as which user it is asked.

    ``repr`` leaves the user's name and password out, since an address may get into a traceback.
    """

    host: str = "localhost"  # "" where ``path`` is given
    port: int = PORT
    path: str = ""  # of a Unix socket, or ""
    database: int = 0
    username: str = field(default="", repr=False)  # "" is the server's default user
    password: str = field(default="", repr=False)  # "" is none
    client_name: str = ""  # as the server's CLIENT LIST shows it
    tls: ssl.SSLContext | None = None  # of all connections; None is plain TCP


def parse_url(url: str) -> Address:
    """Return the address that a ``redis://``, ``rediss://`` or ``unix://`` URL names.

    The order is that of what a refusal can say. ``urlsplit`` refuses brackets and ports that are
    none; its text quotes them, so it is replaced. Options come next, because redis-py does not say
    which option it is that is wrong. Then redis-py reads the URL, and what it would have ignored in
    it is refused. Files are read last, once the rest is known to be right.

    Raises ``ValueError`` that says what was expected, and nothing of what came.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # a property that raises where the port is no number or too high
    except ValueError:
        raise ValueError(_EXPECTED) from None
    asked = _asked(parts.query)
    try:
        found: Mapping[str, Any] = connection.parse_url(url)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    is_unix = parts.scheme == "unix"
    _check(url, parts)
    return Address(
        host="" if is_unix else _host(found.get("host", "localhost")),
        port=found.get("port", PORT),
        path=found["path"] if is_unix else "",
        database=found.get("db", 0),
        # of what stands behind the '?', older releases of redis-py decode the texts twice, which
        # turns a password's "%25" into another character
        username=asked.get("username", found.get("username", "")),
        password=asked.get("password", found.get("password", "")),
        client_name=asked.get("client_name", ""),
        tls=_tls(asked) if parts.scheme == "rediss" else None,
    )


def _check(url: str, parts: SplitResult) -> None:
    """Refuse what redis-py would ignore; raises ``ValueError``.

    A ``#`` may be anywhere, so it is searched in the whole URL, not in the part that was split off
    at it. A path behind a host is the number of a database, behind ``unix://`` the socket.
    """
    if not url[len(parts.scheme) :].startswith("://"):
        raise ValueError("expected a redis://, rediss:// or unix:// URL")
    if "#" in url:
        raise ValueError("expected no '#' in the URL; in a password it is written %23")
    if parts.scheme != "unix":
        if not _DIGITS.fullmatch(parts.path.strip("/") or "0"):
            raise ValueError("expected a number behind the host, which is the database")
    elif parts.path in ("", "/"):
        raise ValueError("expected a path behind unix://")
    elif parts.netloc.rpartition("@")[2]:
        raise ValueError("expected unix:///PATH, with no host")


def _asked(query: str) -> dict[str, str]:
    """Return the options behind the '?'; raises ``ValueError``.

    An unknown name is not quoted: it may be the rest of a password with a '?' in it. A known name
    is, since it can be no secret. Of an option that is given twice the last one counts.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise ValueError(f"expected options of {known} behind the '?', got another one")
        pattern, what = _OPTIONS[name]
        if not pattern.fullmatch(value):
            raise ValueError(f"{name}: expected {what}")
    return options


def _host(name: str) -> str:
    """Return the host's name; raises ``ValueError`` for one that no resolver could take.

    Resolving encodes a name by IDNA, and fails for an empty label or one of more than 63 bytes with
    an error of its own class, each time that the worker connects. So it is tried here.
    """
    try:
        name.encode("idna")
    except UnicodeError:
        raise ValueError("expected a host name, got what is none") from None
    if not name.isprintable() or " " in name:
        raise ValueError("expected a host name, got what is none")
    return name


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Return the context of all connections; raises ``ValueError``.

    redis-py's would each read the files anew, on the event loop, and find out then that one is
    missing. Reading them once means that a renewed certificate needs a restart.

    A refusal names the options whose files may be at fault and the system's reason. It leaves the
    file's name out, which is a part of the URL.
    """
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
    checks = options.get("ssl_cert_reqs", "required")
    is_checked = options.get("ssl_check_hostname", "1").lower() in ("1", "true", "yes")
    # in this order: a context that checks host names takes no weaker mode
    context.check_hostname = is_checked and checks == "required"
    context.verify_mode = _CHECKS[checks]
    return context


def _no_pass_phrase() -> str:
    """Refuse a key that needs a pass phrase; raises ``ValueError``. Without this OpenSSL would ask
    for it on the terminal, and a daemon would hang or fail without saying why."""
    raise ValueError("the key is encrypted")
