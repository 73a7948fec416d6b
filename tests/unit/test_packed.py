"""Long lists of subscriptions, packed: the same as plain lists, whatever the lengths."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.fanout.packed import PAGE, AllBut, Overflows, OwnLimits, Packed, Packer, Text

LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7]


def names(count: int, first: str = "c") -> list[bytes]:
    return [f"{first}{number:06d}".encode() for number in range(count)]


def packed(plain: list[bytes], enveloped: list[bytes]) -> Packed:
    first, second = Packer(), Packer()
    for packer, clients in ((first, plain), (second, enveloped)):
        for at in range(0, len(clients), 700):  # no multiple of a page
            packer.add(clients[at : at + 700])
        packer.end()
        assert packer.length == len(clients)
    return Packed(b"t_", first.pages + second.pages, first.counts + second.counts, len(first.pages))


@pytest.mark.parametrize("plain", LENGTHS)
@pytest.mark.parametrize("enveloped", LENGTHS)
def test_a_packed_list_is_like_a_plain_one(plain: int, enveloped: int) -> None:
    clients = names(plain) + names(enveloped, "b")
    queues = [b"t_" + client for client in clients]
    found = packed(names(plain), names(enveloped, "b"))
    assert len(found) == len(queues)
    assert list(found) == queues
    places = range(0, len(queues), 97)
    assert [found[at] for at in places] == queues[::97]
    assert found[5:9] == queues[5:9]
    for at in (len(queues), -len(queues) - 1):
        with pytest.raises(IndexError):
            found[at]
    if queues:
        assert found[-1] == queues[-1]
    for part in (range(len(queues)), places, array("I", places), [*places][-1:]):
        assert found.clients(part) == [clients[at] for at in part]


@pytest.mark.parametrize("plain", LENGTHS)
@pytest.mark.parametrize("enveloped", LENGTHS)
def test_names_are_found_in_both_parts_of_a_list(plain: int, enveloped: int) -> None:
    clients = names(plain) + names(enveloped, "b")
    found = packed(names(plain), names(enveloped, "b"))
    for at in {*range(0, len(clients), 61), len(clients) - 1} - {-1}:
        assert found.find(clients[at]) == at
    for unknown in (b"", b"a", b"c", b"c000", b"c0000000", b"zzz", b"0"):
        assert found.find(unknown) is None


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_all_but_some_indexes(length: int, gone: set[int]) -> None:
    gone = {index for index in gone if index < length}
    expected = [index for index in range(length) if index not in gone]
    left = AllBut(length, [*gone, *gone])
    assert list(left) == expected
    assert len(left) == len(expected)
    assert [left[at] for at in range(len(left))] == expected
    assert left[3:9] == expected[3:9]
    with pytest.raises(IndexError):
        left[len(expected)]


def test_what_is_named_twice_or_unknown_does_no_harm() -> None:
    found = packed(names(3000), [])
    left = AllBut.named(found, ["c000000", "c002999", "c000512", "nobody", ""])
    assert [*left] == [*range(1, 512), *range(513, 2999)]
    text = Text(found)
    assert text[2] == "t_c000002"
    some = Text(packed(names(3000), [])).without(["c000001"])
    assert some[:2] == ["t_c000000", "t_c000002"]
    assert (len(some), some[0], list(some)[-1]) == (2999, "t_c000000", "t_c002999")


def test_limits_and_overflows_by_index() -> None:
    limits = OwnLimits(array("I", [3, 7]), array("I", [50, 2**31 - 1]), {0: 50})
    assert list(limits) == [(3, 50), (7, 2**31 - 1)]
    assert (len(limits), limits[1], limits[:1]) == (2, (7, 2**31 - 1), [(3, 50)])
    overflows = Overflows(array("I", [3, 7]), bytearray([1, 2]), ("drop_new", "drop_old", "end"))
    assert dict(overflows) == {3: "drop_old", 7: "end"}
    assert overflows.get(4) is None
    assert overflows.get(9) is None
    assert overflows.keys() & {1, 3, 9} == {3}
