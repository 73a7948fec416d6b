"""Answers: what a caller is sent of each receiver as it finishes (docs/protocol.rst, "Answers as
they come").

Rules: pure. Each answer is one line of JSON: programs that print what they get as it comes, such as
the ``gearman`` command, give their readers one line for each receiver.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.messages.codec import encode


class _Answer(msgspec.Struct, frozen=True, gc=False):
    """The keys of an answer, in their order."""

    client_id: str
    seconds: float
    result: str | UnsetType = UNSET
    result_base64: bytes | UnsetType = UNSET
    error: str | UnsetType = UNSET
    omitted: bool | UnsetType = UNSET


def encode_result(client_id: str, seconds: float, result: bytes) -> bytes:
    """Return what is sent of a receiver that has completed its copy.

    Arguments:
        client_id: whose receiver.
        seconds: since the copies were begun.
        result: what it returned; as base64 where it is not UTF-8.
    """
    try:
        answer = _Answer(client_id, seconds, result.decode())
    except UnicodeDecodeError:
        answer = _Answer(client_id, seconds, result_base64=result)  # as which msgspec has bytes
    return encode(answer) + b"\n"


def encode_omitted(client_id: str, seconds: float) -> bytes:
    """Return what is sent of a receiver whose result has no room."""
    return encode(_Answer(client_id, seconds, omitted=True)) + b"\n"


def encode_acknowledged(client_id: str, seconds: float) -> bytes:
    """Return what is sent of a durable receiver, whose result is not known."""
    return encode(_Answer(client_id, seconds)) + b"\n"


def encode_error(client_id: str, seconds: float, error: str) -> bytes:
    """Return what is sent of a receiver that failed, or that gets no copy; ``error`` is why."""
    return encode(_Answer(client_id, seconds, error=error)) + b"\n"
