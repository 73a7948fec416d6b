"""What the store keeps of messages that are done beyond a position, and of redrives, on real stores
without a worker."""

from __future__ import annotations

from support.logs import NOTHING, LogBench, failed, parked_in, retain, run, trouble
from support.servers import Redis
from support.store import unsubscribe

from gearhorn.errors import StoreRefused
from gearhorn.store.lanes import Acquired
from gearhorn.store.rounds import FailureWrite

pytest_plugins = ["support.store"]
ME, OTHER = "me", "other"
PAIR = "t\0alice"


async def begin(bench: LogBench, count: int = 9) -> tuple[Acquired, str]:
    """A log of some messages, a lane that this member has taken, and the log's epoch."""
    await bench.join(ME)
    await bench.join(OTHER)
    await bench.begin("t", "alice", "all", in_flight=5)
    await bench.append("t", *(f"{number}" for number in range(1, count + 1)))
    acquired = await bench.acquire("t", "alice")
    assert acquired is not None
    return acquired, (await bench.state("t"))["epoch"]


async def again(bench: LogBench) -> Acquired:
    """The lane, taken once more."""
    acquired = await bench.acquire("t", "alice")
    assert acquired is not None
    return acquired


def test_what_is_done_beyond_a_position_goes_to_the_next_owner(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, own = await begin(bench)
        assert (tuple(first.ahead), first.ahead_top) == ((), 0)
        assert await bench.settle("t", "alice", first.term, 1, ahead=[(5, 5, own), (3, 4, own)])
        assert await bench.settle("t", "alice", first.term, 1, ahead=[(8, 8, own)])
        second = await again(bench)
        assert (tuple(second.ahead), second.ahead_top) == (((3, 4), (5, 5), (8, 8)), 8)
        assert await bench.settle("t", "alice", second.term, 5, ahead=[])
        third = await again(bench)
        assert (tuple(third.ahead), third.ahead_top) == (((8, 8),), 8)
        assert await bench.ask("ZRANGE", f"ahead:{PAIR}", 0, -1) == [b"8-8"], "what is passed goes"

    run(server, test)


def test_only_the_owner_tells_what_is_done_and_only_of_this_log(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, own = await begin(bench)
        term = first.term
        assert not await bench.settle("t", "alice", term, 1, member=OTHER, ahead=[(3, 3, own)])
        assert not await bench.settle("t", "alice", term - 1, 1, ahead=[(3, 3, own)])
        assert not await bench.settle("t", "alice", term, 1, ahead=[(10, 10, own)]), "not logged"
        await bench.restart("t")
        await bench.append("t", "10", "11")
        assert not await bench.settle("t", "alice", term, 1, ahead=[(10, 10, own)]), "another one"
        assert tuple((await again(bench)).ahead) == ()

    run(server, test)


def test_a_lane_that_ends_leaves_nothing_behind(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, own = await begin(bench)
        assert await bench.settle("t", "alice", first.term, 1, ahead=[(3, 3, own)])
        assert await bench.park("t", "alice", first.term, 4)
        await bench.lanes.take_parked("t", "alice", "redrive", None)
        await bench.one(unsubscribe("t", "alice"))
        left = await bench.keys()
        assert not {f"ahead:{PAIR}", f"redrive:{PAIR}", f"parked:{PAIR}", "redriven"} & left

    run(server, test)


def test_what_is_purged_beyond_the_position_is_not_found_in_the_log_again(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)
        assert await bench.park("t", "alice", first.term, 1, 4)
        assert await bench.settle("t", "alice", first.term, 1)
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 2
        second = await again(bench)
        assert (parked_in(second), tuple(second.ahead)) == ([], ((4, 4),))

    run(server, test)


def test_what_the_caps_drop_of_the_parked_is_not_found_in_the_log_again(server: Redis) -> None:
    """Beyond the position too: it counts as dropped, and would be delivered all the same."""

    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)
        await bench.one(retain("t", max_messages=2))
        await bench.append("t", "10", "11")
        assert await bench.settle("t", "alice", first.term, 9)
        await bench.one(retain("t", max_messages=9))
        await bench.append("t", *map(str, range(12, 17)))
        assert await bench.park("t", "alice", first.term, 11, 12, 14)
        await bench.one(retain("t", max_messages=2))
        assert await bench.park("t", "alice", first.term, 15, 16)
        second = await again(bench)
        assert (parked_in(second), tuple(second.ahead)) == (
            [15, 16],
            ((11, 11), (12, 12), (14, 14)),
        )
        assert second.ahead_top == 14
        assert await bench.settle("t", "alice", second.term, 16, ahead=[])
        assert await bench.keys() & {f"ahead:{PAIR}"} == set()

    run(server, test)


def test_a_late_acknowledgement_takes_a_message_out_of_the_parked_ones(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)
        assert await bench.park("t", "alice", first.term, 1, 4, 5)
        assert await bench.settle("t", "alice", first.term, 1)
        await bench.lanes.take_parked("t", "alice", "redrive", 1)
        late = FailureWrite("t", "alice", first.term, "late", [1, 4, 7])
        await bench.note(late, OTHER)
        await bench.note(late._replace(term=first.term - 1))
        assert await bench.listed("t", "alice") == [4, 5]
        await bench.note(late)
        assert await bench.listed("t", "alice") == [5]
        second = await again(bench)
        assert (parked_in(second), tuple(second.ahead)) == ([5], ((4, 4),))
        assert not second.redrives
        assert await bench.lanes.parked("t", "alice", [1, 4]) == [None, None]

    run(server, test)


def test_what_is_parked_is_copied_from_the_log_or_from_where_it_was_put_back(
    server: Redis,
) -> None:
    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)
        assert await bench.park("t", "alice", first.term, 3)
        await bench.lanes.take_parked("t", "alice", "redrive", None)
        await bench.ask("XTRIM", "messages", "MINID", 9, topic="t")
        assert await bench.park("t", "alice", first.term, 3), "the log does not have it any more"
        [three] = await bench.lanes.parked("t", "alice", [3])
        assert three is not None
        assert three.payload == b"3"
        work = NOTHING._replace(parkings=[bench.parking("t", "alice", first.term, 4)])
        reply = await bench.lanes.round(ME, work)
        assert (reply.gone, reply.fenced) == ({("t", "alice", 4)}, set())
        assert await bench.listed("t", "alice") == [3]

    run(server, test)


def test_redrives_are_found_in_their_order_after_any_of_them(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join(ME)
        terms = {}
        for topic in ("t", "u", "v"):
            await bench.begin(topic, "alice", "all")
            await bench.append(topic, "1", "2")
            acquired = await bench.acquire(topic, "alice")
            assert acquired is not None
            terms[topic] = acquired.term
            assert await bench.park(topic, "alice", acquired.term, 1, 2)
        assert await bench.lanes.redriven(0) == []
        for topic in ("t", "u", "t"):
            await bench.lanes.take_parked(topic, "alice", "redrive", 1)
        assert await bench.lanes.redriven(0) == [("u", "alice", 2), ("t", "alice", 3)]
        assert await bench.lanes.redriven(2) == [("t", "alice", 3)]
        assert await bench.lanes.redriven(3) == []
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert (acquired.redrives.lowest(9), acquired.seen_redrive) == ([1, 2], 3)
        note = failed("t", "alice", acquired.term, 1, trouble())._replace(kind="redriven")
        await bench.note(note)
        assert len(await bench.lanes.redriven(0)) == 2, "2 is to be delivered still"
        await bench.note(note._replace(sequences=[2]))
        assert await bench.park("u", "alice", terms["u"], 1)
        assert await bench.lanes.redriven(0) == []

    run(server, test)


def test_what_was_put_back_is_read_up_to_so_many_bytes(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)
        assert await bench.park("t", "alice", first.term, 1, 2, 3)
        await bench.ask("SET", "parked:t\0bob", "another type")
        wanted = [("t", "alice", [1, 9, 2, 3]), ("t", "bob", [1]), ("t", "carol", [1])]
        [first_part] = await bench.lanes.put_back(wanted[:1], 1)
        assert isinstance(first_part, list)
        [one] = first_part
        assert one is not None
        assert one.payload == b"1"
        found, refused, none = await bench.lanes.put_back(wanted, 10**6)
        assert isinstance(found, list)
        assert [one and one.payload for one in found] == [b"1", None, b"2", b"3"]
        assert isinstance(refused, StoreRefused)
        assert none == [None]

    run(server, test)


def test_one_refused_command_of_a_round_costs_its_lane_only(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join(ME)
        terms = {}
        for client in ("alice", "bob"):
            await bench.begin("t", client, "all")
            acquired = await bench.acquire("t", client)
            assert acquired is not None
            terms[client] = acquired.term
        await bench.append("t", "1")
        await bench.ask("SET", "trouble:t\0alice", "another type")
        notes = [failed("t", client, terms[client], 1, trouble()) for client in terms]
        reply = await bench.lanes.round(ME, NOTHING._replace(notes=notes))
        assert reply.refused.keys() == {("t", "alice")}
        assert isinstance(reply.refused["t", "alice"], StoreRefused)
        assert reply.fenced == set()
        assert await bench.lanes.counts([("t", "bob")]) == [(0, {1: trouble()}, 0, 0)]
        found, left = await bench.lanes.acquire(ME, {"t": ["alice", "bob"]})
        assert [one.client_id for one in found["t"]] == ["bob"]
        assert left == {"t"}

    run(server, test)


def test_ten_thousand_lanes_are_written_in_pieces(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, own = await begin(bench)
        some = [("alice", first.term, 2, own, None, 0, 0)]
        some += [(f"c{number}", 1, 0, "", None, 0, 0) for number in range(10_000)]
        reply = await bench.lanes.round(ME, NOTHING._replace(positions={"t": some}))
        assert (len(reply.fenced), reply.refused) == (10_000, {})
        assert await bench.position("t", "alice") == 2

    run(server, test)


def test_what_a_lane_counts_is_added_once_for_each_term(server: Redis) -> None:
    async def counted(bench: LogBench) -> int:
        [counts] = await bench.lanes.counts([("t", "alice")])
        return counts.expired

    async def test(bench: LogBench) -> None:
        first, own = await begin(bench)
        assert await counted(bench) == 0
        for expired, total in (
            (3, 3),
            (3, 3),
            (5, 5),
            (4, 5),
            (0, 5),
        ):  # an answer was lost, or late
            assert await bench.settle("t", "alice", first.term, 1, own, expired=expired)
            assert await counted(bench) == total
        assert not await bench.settle("t", "alice", first.term, 1, own, member=OTHER, expired=9)
        assert not await bench.settle("t", "alice", first.term, 99, own, expired=9)
        assert await counted(bench) == 5
        second = await again(bench)
        assert not await bench.settle("t", "alice", first.term, 1, own, expired=9)
        assert await bench.settle("t", "alice", second.term, 2, own, expired=2)
        assert await bench.settle("t", "alice", second.term, 2, own, expired=2)
        assert await counted(bench) == 7
        await bench.one(unsubscribe("t", "alice"))
        assert await counted(bench) == 0

    run(server, test)


def test_what_expired_is_known_of_the_newest_until_the_subscription_ends(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first, _ = await begin(bench)

        def lapsed(*sequences: int) -> FailureWrite:
            return FailureWrite("t", "alice", first.term, "lapsed", sequences)

        await bench.note(lapsed(*range(2, 150)))
        await bench.note(lapsed(150))
        messages = [("alice", number) for number in (1, 50, 51, 150)]
        found = await bench.lanes.passed("t", messages)
        assert [passed.is_expired for passed in found] == [False, False, True, True]
        await bench.one(unsubscribe("t", "alice"))
        assert await bench.ask("EXISTS", f"lapsed:{PAIR}") == 0

    run(server, test)
