"""What a fan-out replies with: a receipt, or which receivers failed and why.

A million receivers that return a few bytes each make a reply of dozens of megabytes, which client
libraries refuse or choke on. So a reply has a bound, and says what it left out (docs/protocol.rst,
"Receipt", "The reply"). How long a text becomes in JSON is known only once it is encoded: a control
character takes six bytes. So each list is encoded, measured, and cut until it fits. Most replies
are far from the bound, and measuring each of their lists took longer than encoding them; so a reply
that fits even if each character were the widest is encoded in one go.

Rules: pure. A reply has at most ``REPLY_BYTES``, however many receivers there are and whatever
they returned. What does not fit is left out and counted, results first.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Logged

REPLY_BYTES = 16 * 1024 * 1024
_WIDEST = 6  # bytes of JSON for a character, at most; commas, colons and quotes count as one more
_OTHER_BYTES = 4096  # of a reply: its keys, its numbers and the log's epoch
_Item = TypeVar("_Item")


class _Receipt(msgspec.Struct, frozen=True):
    """The keys of a receipt, in their order. The lists are values, or JSON that is encoded."""

    copies: int
    delivered: Any
    failed: Any
    pending: Any
    dropped: Any
    results: Any
    results_base64: Any = UNSET
    results_omitted: Any = UNSET
    expired: Any = UNSET
    unlisted: dict[str, int] | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET


class _Sheet:
    """The JSON of one reply, part by part, while there is room. What is added first has the first
    claim on it."""

    def __init__(self, room: int) -> None:
        self._room = room  # bytes
        self.unlisted: dict[str, int] = {}  # by key, how many items had no room

    def add(
        self,
        key: str,
        items: Sequence[_Item],
        shape: Callable[[Sequence[_Item]], Any],
        is_counted: bool = True,
    ) -> tuple[msgspec.Raw, Sequence[_Item]]:
        """Return the JSON of as many of the first items as there is room for, and the others.

        A text that is too long is encoded again with fewer items, in proportion to the room. Each
        try has at least one item less than the last, so it comes to an end.

        Arguments:
            key: of the list in the reply, under which items without room are counted.
            items: what is to be listed.
            shape: makes of items what is encoded.
            is_counted: False where another list names the items without room.
        """
        count = len(items)
        while True:
            text = encode(shape(items[:count]))
            if len(text) <= self._room or not count:
                break
            count = min(count - 1, count * self._room // len(text))
        self._room -= len(text)
        if is_counted and count < len(items):
            self.unlisted[key] = len(items) - count
        return msgspec.Raw(text), items[count:]


def encode_receipt(
    copies: int,
    *,
    delivered: Sequence[str] = (),
    failed: Mapping[str, str] = MappingProxyType({}),
    pending: Sequence[str] = (),
    dropped: Sequence[str] = (),
    expired: Sequence[str] = (),
    results: Mapping[str, bytes] = MappingProxyType({}),
    omitted: Sequence[str] = (),
    logged: Logged | None = None,
    unlisted: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """Return a receipt: what became of a message, copy by copy (docs/protocol.rst, "Receipt").

    A receipt that certainly has room is encoded at once. Of any other the lists are added in the
    order of their worth to the caller: failures and drops tell what to do again, and are few as a
    rule; the delivered ones can be told from the rest; results come last. The list of omitted
    results comes after the results, since those without room are among it.

    Arguments:
        copies: how many job servers accepted.
        delivered: client_ids of receivers that completed it.
        failed: client_id to reason.
        pending: client_ids of receivers that had not finished.
        dropped: client_ids whose queue was full.
        expired: client_ids for which the message was not begun any more.
        results: client_id to what the receiver returned.
        omitted: client_ids whose results were not kept.
        logged: where the message stands in its topic's log, None where it has none.
        unlisted: how many others there are, by the key in which they would be.
    """
    texts, coded = _split(results) if results else ([], [])
    place = (logged.sequence, logged.epoch) if logged else (UNSET, UNSET)
    lists = (delivered, failed, pending, dropped, omitted, expired)
    lengths = sum(map(len, itertools.chain(*lists, failed.values(), *texts, *coded)))
    if not unlisted and _WIDEST * (lengths + sum(map(len, lists))) < REPLY_BYTES - _OTHER_BYTES:
        base64s = dict(coded) if coded else UNSET
        plain = (delivered, dict(failed), pending, dropped, dict(texts), base64s, omitted or UNSET)
        return encode(_Receipt(copies, *plain, expired or UNSET, UNSET, *place))
    sheet = _Sheet(REPLY_BYTES - _OTHER_BYTES)
    failed_json, _ = sheet.add("failed", list(failed.items()), dict)
    dropped_json, _ = sheet.add("dropped", dropped, list)
    expired_json, _ = sheet.add("expired", expired, list)
    pending_json, _ = sheet.add("pending", pending, list)
    delivered_json, _ = sheet.add("delivered", delivered, list)
    coded_json, coded_out = sheet.add("", coded, dict, is_counted=False)
    texts_json, texts_out = sheet.add("", texts, dict, is_counted=False)
    missing = [*omitted, *(name for name, _ in (*coded_out, *texts_out))]
    omitted_json, _ = sheet.add("results_omitted", missing, list)
    for key, others in unlisted.items():
        sheet.unlisted[key] = sheet.unlisted.get(key, 0) + others
    fitted = (delivered_json, failed_json, pending_json, dropped_json, texts_json)
    others_json = coded_json if len(coded) > len(coded_out) else UNSET
    seldom = (
        others_json,
        omitted_json if missing else UNSET,
        expired_json if expired else UNSET,
        sheet.unlisted or UNSET,
    )
    return encode(_Receipt(copies, *fitted, *seldom, *place))


def _split(results: Mapping[str, bytes]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the results that are text, and the others in base64, as pairs with client_ids."""
    texts: list[tuple[str, str]] = []
    coded: list[tuple[str, str]] = []
    for client_id, data in results.items():
        try:
            texts.append((client_id, data.decode()))
        except UnicodeDecodeError:
            coded.append((client_id, base64.b64encode(data).decode()))
    return texts, coded


def encode_failures(pairs: Sequence[tuple[str, str]], others: int = 0) -> bytes:
    """Return why a fan-out failed, as the text of its warning (docs/protocol.rst, "The reply").

    Arguments:
        pairs: client_id and reason.
        others: how many more there are that the caller did not name.

    Where not all have room, or there are ``others``, the last pair has no client_id and says how
    many are missing.
    """
    sheet = _Sheet(REPLY_BYTES - _OTHER_BYTES)
    text, left = sheet.add("", pairs, list)
    others += len(left)
    if not others:
        return bytes(text)
    return encode([*pairs[: len(pairs) - len(left)], ("", f"and {others} more")])
