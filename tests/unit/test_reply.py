"""Replies take messages up to their bounds, and at least one."""

from __future__ import annotations

from gearhorn.durable.reply import PIECE, PIECE_BYTES, REPLY_BYTES, Reply
from gearhorn.store.log import FETCH_BYTES


def test_a_first_message_has_room_whatever_its_size() -> None:
    reply = Reply()
    assert reply.add(b"x" * (REPLY_BYTES + 1), FETCH_BYTES + 1)
    assert reply.is_full
    assert not reply.add(b"y", 1)
    assert (reply.count, len(reply.messages)) == (1, 1)


def test_a_reply_is_bounded_by_what_its_messages_count() -> None:
    reply = Reply()
    assert reply.add(b"a", FETCH_BYTES - 1)
    assert not reply.is_full
    assert not reply.add(b"b", 2)
    assert reply.is_full
    assert (reply.messages, reply.size) == ([b"a"], FETCH_BYTES - 1)


def test_a_reply_is_bounded_by_what_is_sent_too() -> None:
    reply = Reply()
    escaped = b"x" * (REPLY_BYTES // 4)
    assert [reply.add(escaped, 1) for _ in range(4)] == [True, True, True, False]


def test_a_turn_of_the_loop_is_long_after_many_messages_or_many_bytes() -> None:
    reply = Reply()
    turns = []
    for number in range(2 * PIECE):
        reply.add(b"%d" % number, 1)
        turns.append(reply.is_long_turn())
    assert [number for number, is_long in enumerate(turns, 1) if is_long] == [PIECE, 2 * PIECE]
    reply.add(bytes(PIECE_BYTES), 1)
    assert reply.is_long_turn()
    assert not reply.is_long_turn()
