"""Refusals: what each error that a store replies with means for the request that asked.

A server says by an error reply anything from "this key holds a number" to "I am shutting down", and
clients tend to test for the one that they have met. Here each code has a row, once. The answer that
matters is whether waiting helps: a caller whose request is refused with ``unavailable:`` (see
docs/protocol.rst, "Requests, replies, errors") is told at once, while one that waits gets its reply
late, when the operator has helped the store.

Rules: pure. ``TABLE`` is the only place where an error's text decides anything; docs/operations.rst
shows it to operators. The first row that fits counts. An error without a row is waited out like an
outage: of what gearhorn does not know it must not say that a message cannot be delivered.

What is done follows from the class of the error that ``refusal`` returns:

``StoreError``
    wait, and ask again
``StoreReadOnly``
    close every connection, look for the primary anew, wait, and ask again
``StoreNoWrites``
    refuse the request that needs a write with ``unavailable:``; reads go on
``StoreRefused``
    refuse this topic with ``unavailable:``; other topics go on
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gearhorn.errors import StoreError, StoreNoWrites, StoreReadOnly, StoreRefused


class Row(NamedTuple):
    """One kind of error: its ``code`` is what a reply begins with, ``error`` the class that stands
    for it, ``reason`` what it means in docs/operations.rst, and ``pattern`` what the text has to
    contain, if anything. Servers tell many things under ``ERR``, which need the pattern."""

    code: str
    error: type[StoreError]
    reason: str
    pattern: re.Pattern[str] | None = None

    def fits(self, code: str, text: str) -> bool:
        """Return whether a reply with this code and text is of this kind."""
        return code == self.code and (self.pattern is None or bool(self.pattern.search(text)))


# An error that the server raised in the middle of a script begins with the script's name up to
# Redis 6 and in some places later: "ERR ... @user_script:12: -OOM command not allowed ...".
_INNER = re.compile(r"@?user_script: ?\d+: -([A-Z]{3,})\b")
_SCRIPT = re.compile(r"user_script")
_CONTENT = re.compile(r"value is not an? (valid )?(integer|float)|would overflow|not a valid float")
_CLIENTS = re.compile(r"max number of clients")

TABLE = (
    Row("READONLY", StoreReadOnly, "a replica: the primary is another server now"),
    Row("MASTERDOWN", StoreReadOnly, "a replica that has lost its primary"),
    Row("MOVED", StoreReadOnly, "a cluster node that has not the namespace's slot"),
    Row("ASK", StoreReadOnly, "a cluster node whose slot is moving away"),
    Row("CLUSTERDOWN", StoreError, "the cluster is not complete"),
    Row("TRYAGAIN", StoreError, "a slot of the cluster is moving"),
    Row("CROSSSLOT", StoreError, "a cluster finds the keys of one request in several slots"),
    Row("LOADING", StoreError, "the server is reading its data"),
    Row("BUSY", StoreError, "another client's script has run for too long"),
    Row("OOM", StoreNoWrites, "the memory is full"),
    Row("MISCONF", StoreNoWrites, "the disk takes no snapshot or append-only file"),
    Row("NOREPLICAS", StoreNoWrites, "too few replicas follow"),
    Row("NOAUTH", StoreError, "the server asks for a password"),
    Row("WRONGPASS", StoreError, "the password or the user is wrong"),
    Row("NOPERM", StoreError, "the user lacks a permission"),
    Row("WRONGTYPE", StoreRefused, "a key holds another type: another program has written it"),
    Row("ERR", StoreError, "every client that the server allows is there", _CLIENTS),
    Row("ERR", StoreRefused, "a key holds what gearhorn does not write", _SCRIPT),
    Row("ERR", StoreRefused, "a key holds what gearhorn does not write", _CONTENT),
)


def refusal(text: str) -> StoreError:
    """Return the error that stands for a store's reply; ``text`` is the reply, whole. It becomes
    the error's text, so that the log has the store's own."""
    code = code_of(text)
    for row in TABLE:
        if row.fits(code, text):
            return row.error(text)
    return StoreError(text)


def code_of(text: str) -> str:
    """Return the code of a store's error reply, also where a script's error contains it. An error
    of gearhorn's own has none that is in the table."""
    code = text.partition(" ")[0]
    if code == "ERR" and (inner := _INNER.search(text)):
        return inner[1]
    return code
