"""Replies of foreground fan-outs: each copy in one place, in the order of the list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fanouts import long_list

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.tally import DELIVERED, DROPPED, FAILED, HELD, PENDING, SLICE, Tally, exhaust
from gearhorn.messages.receipts import REPLY_BYTES

ALL = bytes((PENDING, HELD, DELIVERED, FAILED, DROPPED))


def subscribers(names: Sequence[str], is_long: bool) -> Subscribers:
    if not is_long:
        queues = [f"t_{name}".encode() for name in names]
        return Subscribers("t", queues, enveloped=len(queues))
    return long_list("t", names)


def receipt(tally: Tally, copies: int = 0) -> dict[str, Any]:
    decoded = json.loads(tally.receipt(exhaust(tally.steps(ALL)), copies, ["durable"], None))
    assert isinstance(decoded, dict)
    return decoded


@given(st.booleans(), st.lists(st.sampled_from("pdfxhe"), max_size=40))
def test_each_copy_is_in_one_place_in_the_order_of_the_list(is_long: bool, fates: str) -> None:
    names = [f"c{number:03}" for number in range(len(fates))]
    chosen = [index for index, fate in enumerate(fates) if fate != "e"]
    tally = Tally(subscribers(names, is_long), chosen)
    for index, fate in reversed(list(enumerate(fates))):
        if fate == "d":
            tally.deliver(index)
            tally.keep(index, b"%d" % index)
        elif fate == "f":
            tally.fail(index, "full" if index % 2 else "")
        elif fate == "x":
            tally.hold(index)
            tally.send(index)
            tally.drop(index)
        elif fate == "h":
            tally.hold(index)
    told = receipt(tally, 5)
    by_fate = {
        fate: [names[i] for i, found in enumerate(fates) if found == fate] for fate in "pdfxh"
    }
    assert told["copies"] == 5
    assert told["delivered"] == by_fate["d"]
    assert told["results"] == {name: str(int(name[1:])) for name in by_fate["d"]}
    assert told["failed"] == {
        name: "full" if int(name[1:]) % 2 else "failed" for name in by_fate["f"]
    }
    assert told["dropped"] == by_fate["x"]
    assert told["pending"] == [*by_fate["p"], *by_fate["h"], "durable"]
    assert list(tally.held()) == [i for i, fate in enumerate(fates) if fate == "h"]
    assert (tally.succeeded, tally.unsent) == (len(by_fate["d"]), len(by_fate["x"]))


@pytest.mark.parametrize("is_long", [True, False])
def test_a_long_list_is_named_slice_by_slice_and_the_rest_is_counted(is_long: bool) -> None:
    count = 100 * SLICE
    names = [f"{number:0200}" for number in range(count)]
    tally = Tally(subscribers(names, is_long), None)
    for index in range(0, count, 3):
        tally.deliver(index)
        tally.fail(index + 1, "") if index + 1 < count else None
    steps = tally.steps(ALL)
    turns = 0
    try:
        while True:
            next(steps)
            turns += 1
    except StopIteration as end:
        text = tally.receipt(end.value, count, [], None)
    assert turns == 100
    assert len(text) <= REPLY_BYTES
    told = json.loads(text)
    assert told["delivered"] == names[0::3][: len(told["delivered"])]
    for key, first in (("delivered", 0), ("failed", 1), ("pending", 2)):
        assert len(told[key]) + told["unlisted"][key] == len(range(first, count, 3))
    failures = json.loads(tally.failures(exhaust(tally.steps(bytes((FAILED,)))), "late", ()))
    *listed, last = failures
    assert [name for name, _ in listed] == names[1::3][: len(listed)]
    assert last == ["", f"and {len(range(1, count, 3)) - len(listed)} more"]


class NeverWalked(dict[int, str]):
    """What receivers said, of which there may be a million: each is asked for in its turn."""

    def __iter__(self) -> Any:
        raise AssertionError("it is walked through in one step")

    keys = __iter__


@pytest.mark.parametrize("is_long", [True, False])
def test_what_receivers_said_is_told_with_the_slice_that_names_them(is_long: bool) -> None:
    names = [f"c{number:05}" for number in range(2 * SLICE + 10)]
    tally = Tally(subscribers(names, is_long), None)
    tally._reasons = NeverWalked()
    for index in range(len(names)):
        tally.fail(index, f"{index}")
    steps = tally.steps(ALL)
    assert next(steps) is None
    assert receipt_of(tally, exhaust(steps)) == {
        name: f"{index}" for index, name in enumerate(names)
    }


def receipt_of(tally: Tally, named: Any) -> Any:
    """Why receivers failed, as a receipt has it."""
    return json.loads(tally.receipt(named, 0, [], None))["failed"]
