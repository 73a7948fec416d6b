"""What the store holds of one topic and its durable subscriptions, for the model of deliveries.

It carries out rounds as the scripts do (``note.lua``, ``park.lua``, ``advance.lua``), and raises
where a lane writes what no lane may ever write: a position over what is not done, or a message set
aside too early or too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gearhorn.errors import StoreError, StoreReplaced
from gearhorn.messages.events import LOG_DROPPED
from gearhorn.messages.logs import FailureHistory, Info, Parked, decode_history
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences
from gearhorn.store.lanes import Acquired
from gearhorn.store.log import Entry
from gearhorn.store.rounds import FailureWrite, Parking, Round, RoundReply
from support.simulated import Clock

TOPIC, ME = "t", "me"


class Subscription:
    """What is kept of one durable subscription, and what its receivers did."""

    def __init__(self, client_id: str, options: DurableOptions) -> None:
        self.client_id = client_id
        self.options = options
        self.owner, self.term, self.position = "-", 0, 0
        self.troubles: dict[int, FailureHistory] = {}
        self.parked: dict[int, Parked] = {}
        self.redrives: dict[int, Parked] = {}
        self.ahead: list[tuple[int, int]] = []
        # what really happened
        self.acknowledged: set[int] = set()  # as the store or the present owner knows
        self.heard: set[int] = set()  # acknowledged, whether or not the store came to know it
        self.failed: dict[int, int] = {}  # attempts, since the message was published
        self.put_back: set[int] = set()  # at any time
        self.told: set[int] = set()  # those who wait were told of
        self.lapsed: set[int] = set()  # the store keeps that they expired while some waited
        self.counted: dict[int, int] = {}  # how many it counts so, by TERM
        self.skipped: dict[int, int] = {}  # how many were passed by for newer ones, by TERM
        self.begun: set[int] = set()  # sequences that were sent, from the log
        self.fenced: set[int] = set()  # TERMs that the member knows are over

    def knows(self, sequence: int) -> bool:
        """Whether the store has that a message needs no delivery, or comes as one put back."""
        return (
            sequence <= self.position
            or sequence in self.parked
            or sequence in self.redrives
            or any(first <= sequence <= last for first, last in self.ahead)
        )


class Store:
    """As ``gearhorn.store.lanes.Lanes``, as far as rounds go."""

    def __init__(self, subscriptions: Sequence[Subscription], clock: Clock) -> None:
        self.clock = clock
        self.lanes = {lane.client_id: lane for lane in subscriptions}
        self.log: list[Entry] = []
        self.first = 1  # what is before was dropped by the log's caps
        self.run, self.term = 1, 0
        self.fault = ""  # of the next round: "before", "after", or a client_id that is refused
        self.is_slow = False
        self.is_calm = True  # nothing was lost yet: those who wait must all be told
        self.is_countable = True  # nothing happened that leaves open why a message was not sent
        self.errors: list[BaseException] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def run_id(self) -> str:
        return f"run{self.run}"

    @property
    def epoch(self) -> str:
        return f"{self.run:08d}epoch"

    def publish(
        self, exclude: Sequence[str], waiter: str, expires_ms: int = 0, value: str = ""
    ) -> None:
        """Log a message; ``value`` is that of the header "k", "" for none."""
        sequence = len(self.log) + 1
        headers = {"k": value} if value else None
        info = Info(
            0.0, exclude=tuple(exclude), waiter=waiter, expires_ms=expires_ms, headers=headers
        )
        self.log.append(Entry(sequence, self.epoch, info, b"%d" % sequence))

    def has_expired(self, sequence: int) -> bool:
        """Whether the time of a message is over."""
        return self.log[sequence - 1].info.is_expired(self.clock.ms)

    def expired(self, lane: Subscription) -> set[int]:
        """The messages that a subscription did not get because they expired."""
        return {
            entry.sequence
            for entry in self.log
            if self.has_expired(entry.sequence)
            and entry.sequence not in lane.heard | lane.parked.keys()
            and lane.client_id not in entry.info.exclude
        }

    def newer(self, lane: Subscription, sequence: int) -> list[int]:
        """The messages behind one that take its place, where the subscription wants the latest."""
        latest = lane.options.latest
        if not latest:
            return []

        def value(entry: Entry) -> str | None:
            return None if latest is True else (entry.info.headers or {}).get(str(latest))

        own = value(self.log[sequence - 1])
        return [
            entry.sequence
            for entry in self.log[sequence:]
            if value(entry) == own and lane.client_id not in entry.info.exclude
        ]

    def is_over(self, lane: Subscription, sequence: int) -> bool:
        """Whether a message needs no delivery from the log any more, whoever knows it."""
        return (
            sequence in lane.acknowledged
            or sequence in lane.parked
            or sequence in lane.redrives
            or sequence < self.first
            or lane.client_id in self.log[sequence - 1].info.exclude
            or self.has_expired(sequence)
            or bool(self.newer(lane, sequence))
        )

    # Rounds

    async def round(self, member: str, work: Round, run_id: str) -> RoundReply:
        """Carry out a round, or fail as the test wants it."""
        fault, self.fault = self.fault, ""
        self.is_calm = self.is_calm and not fault
        if fault != "before" and run_id == self.run_id:
            try:
                reply = self._carry_out(member, work, fault)
            except Exception as error:  # who asked would go on after it
                self.errors.append(error)
                raise
            terms = self._terms
        await self._answer()
        if run_id != self.run_id:
            raise StoreReplaced("another run")
        if fault in ("before", "after"):
            raise StoreError("it is not known what was carried out")
        for _, client_id in reply.fenced:
            self.lanes[client_id].fenced.add(terms[client_id])
        return reply

    async def put_back(
        self, wanted: Sequence[tuple[str, str, Sequence[int]]], size: int
    ) -> list[list[Parked | None] | StoreError]:
        """Return messages that were put back."""
        await self._answer()
        return [
            [self.lanes[client_id].redrives.get(sequence) for sequence in sequences]
            for _, client_id, sequences in wanted
        ]

    async def _answer(self) -> None:
        if self.is_slow:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def answer(self) -> None:
        """Answer what was asked."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _carry_out(self, member: str, work: Round, refused: str) -> RoundReply:
        reply = RoundReply(set(), {}, set(), [])
        self._terms: dict[str, int] = {}  # under which lanes were written that are lost
        self._refused = refused
        for note in work.notes:
            if self._holds(note.client_id, member, note.term, reply):
                self._note(self.lanes[note.client_id], note)
        for parking in work.parkings:
            if self._holds(parking.client_id, member, parking.term, reply):
                if not self._park(self.lanes[parking.client_id], parking):
                    reply.gone.add((TOPIC, parking.client_id, parking.sequence))
        for _, writes in work[0].items():
            for client_id, term, position, _, ahead, expired, skipped in writes:
                if self._holds(client_id, member, term, reply):
                    self._move(self.lanes[client_id], position, ahead)
                    self._count(self.lanes[client_id], expired, skipped)
        for (_, is_quiet), writes in work.released.items():
            for client_id, term, position, _, ahead, expired, skipped in writes:
                if self._holds(client_id, member, term, reply):
                    self._move(self.lanes[client_id], position, ahead)
                    self._count(self.lanes[client_id], expired, skipped)
                    self.lanes[client_id].owner = "-" if is_quiet else "?"
        for _, first, limit, _ in work.wanted:
            found = self.log[max(first, self.first) - 1 :][:limit]
            entries = [
                Entry(entry.sequence, entry.epoch, entry.info, entry.payload) for entry in found
            ]
            is_end = max(first, self.first) - 1 + len(found) >= len(self.log)
            reply.entries.append((entries, is_end))
        for texts in work.done.values():
            for text in texts:
                self._tell(text.decode())
        return reply

    def _holds(self, client_id: str, member: str, term: int, reply: RoundReply) -> bool:
        if client_id == self._refused:
            reply.refused[TOPIC, client_id] = StoreError("this lane is refused")
            return False
        lane = self.lanes[client_id]
        if (lane.owner, lane.term) == (member, term):
            return True
        self._terms[client_id] = term
        reply.fenced.add((TOPIC, client_id))
        return False

    def _note(self, lane: Subscription, note: FailureWrite) -> None:
        for sequence in note.sequences:
            if note.kind == "fail":
                history = decode_history(note.body)
                former = lane.troubles.get(sequence)
                assert former is None or history.attempts >= former.attempts, "notes out of order"
                assert history.attempts <= lane.failed.get(sequence, 0), "it failed less often"
                lane.troubles[sequence] = history
            elif note.kind == "clear":
                assert self._is_done(lane, sequence)
                lane.troubles.pop(sequence, None)
            elif note.kind == "lapsed":
                assert self.has_expired(sequence)
                assert self.log[sequence - 1].info.waiter
                lane.lapsed.add(sequence)
            else:
                was_back = lane.redrives.pop(sequence, None) is not None
                was_parked = note.kind == "late" and lane.parked.pop(sequence, None) is not None
                assert self._is_done(lane, sequence)
                if note.kind == "late" and (was_back or was_parked) and sequence > lane.position:
                    lane.ahead.append((sequence, sequence))

    def _park(self, lane: Subscription, parking: Parking) -> bool:
        sequence, history = parking.sequence, parking.message.trouble
        back = lane.redrives.pop(sequence, None)
        limit = lane.options.max_attempts
        assert limit, "a message that is to be tried without limit was set aside"
        assert limit <= history.attempts, "attempts are left"
        if sequence not in lane.put_back:  # else the count goes on, and parkings may be repeated
            # a batch is tried as such once, and then its messages one by one
            assert history.attempts <= max(limit, 2 if lane.options.batch > 1 else 1)
        assert history.attempts <= lane.failed.get(sequence, 0), "it failed less often"
        lane.troubles.pop(sequence, None)
        kept = back or lane.parked.get(sequence)  # the answer was lost, and this is told again
        if kept is None and sequence < self.first:
            return False
        payload = self.log[sequence - 1].payload if kept is None else kept.payload
        message = parking.message
        lane.parked[sequence] = Parked(message.epoch, history, message.info, payload)
        return True

    def _move(
        self,
        lane: Subscription,
        position: int,
        ahead: Sequence[tuple[int, int, str]] | None,
    ) -> None:
        assert position >= lane.position, "the position went back"
        assert position <= len(self.log)
        for sequence in range(lane.position + 1, position + 1):
            assert self.is_over(lane, sequence), "the position passes what is not done"
        lane.position = position
        lane.ahead += [(first, last) for first, last, _ in ahead or ()]
        for first, last in lane.ahead:
            for sequence in range(first, last + 1):
                assert self.is_over(lane, sequence), "done, the lane says, but it is not"
        lane.ahead = [(first, last) for first, last in lane.ahead if last > position]

    def _is_done(self, lane: Subscription, sequence: int) -> bool:
        """Whether nothing more is to become of a message for a subscription."""
        is_gone = sequence < self.first or self.has_expired(sequence)
        return sequence in lane.heard or is_gone or bool(self.newer(lane, sequence))

    def _count(self, lane: Subscription, expired: int, skipped: int) -> None:
        """As ``advance.lua`` counts: the number of a TERM, whatever was told of it before."""
        lane.counted[lane.term] = max(lane.counted.get(lane.term, 0), expired)
        lane.skipped[lane.term] = max(lane.skipped.get(lane.term, 0), skipped)

    def _tell(self, text: str) -> None:
        _, client_id, number, error, *more = text.split("\0")
        lane, sequence = self.lanes[client_id], int(number)
        if more and more[0]:
            assert self.has_expired(sequence), "it is said to have expired, and has not"
        elif error == LOG_DROPPED:
            assert sequence < self.first
        elif error:
            assert lane.failed.get(sequence)
        else:
            assert sequence in lane.heard or self.newer(lane, sequence)
        lane.told.add(sequence)

    # What others do

    def acquire(self, lane: Subscription) -> Acquired:
        """The member takes a lane that is free."""
        former = lane.owner
        self.term += 1
        lane.owner, lane.term = ME, self.term
        for sequence in list(lane.troubles):
            if sequence <= lane.position and sequence not in lane.redrives:
                del lane.troubles[sequence]
        lane.acknowledged = {
            sequence
            for sequence in lane.acknowledged
            if lane.knows(sequence)
            and sequence not in lane.parked
            and sequence not in lane.redrives
        }
        redrives = Sequences(sorted(lane.redrives))
        return Acquired(
            lane.client_id,
            lane.term,
            lane.position,
            former,
            dict(lane.troubles),
            [Sequences(sorted(lane.parked)).behind(lane.position), redrives.behind(lane.position)],
            redrives,
            0,
            sorted(lane.ahead),
            max((last for _, last in lane.ahead), default=0),
        )

    def steal(self, lane: Subscription, count: int) -> None:
        """Another member takes a lane, delivers some messages, and dies."""
        self.term += 1
        lane.owner, lane.term = "other", self.term
        self.is_calm = self.is_countable = False
        for _ in range(count):
            if lane.position == len(self.log):
                return
            lane.position += 1
            if not self.is_over(lane, lane.position):
                lane.acknowledged.add(lane.position)
                lane.heard.add(lane.position)
                lane.troubles.pop(lane.position, None)

    def redrive(self, lane: Subscription, count: int) -> bool:
        """Put the oldest parked messages back; return whether there were any."""
        sequences = sorted(lane.parked)[:count]
        for sequence in sequences:
            lane.redrives[sequence] = lane.parked.pop(sequence)
            lane.put_back.add(sequence)
        return bool(sequences)

    def restart(self) -> None:
        """The store is started again, with all that it had."""
        self.run += 1
        self.is_calm = self.is_countable = False
