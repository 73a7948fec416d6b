"""States of deliveries and lanes, and what follows from what.

A delivery is sent, taken by a receiver, and done; or it fails and rests, and is sent again, until
it is set aside. Two things complicate this. gearmand does not tell when a receiver takes a job, so
SENT and TAKEN differ by what was found out, and every end may come in both. And a receiver whose
time is over may still acknowledge (LATE), in whatever state the delivery is by then.

LOSE and WITHDRAWN lead back to READY without an attempt. The lane closes in both cases, so it is
not sent again under the same TERM.

Rules: pure. ``DELIVERIES`` is the table of one job, ``LANES`` that of a subscription; an event
without a row changes nothing.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto


class State(IntEnum):
    """Of one delivery."""

    READY = auto()  # to be sent
    SENT = auto()  # submitted; no receiver is known to have taken it
    TAKEN = auto()  # a receiver has it
    WITHDRAWING = auto()  # its job is being cancelled; a receiver may have taken it meanwhile
    RESTING = auto()  # waits for its next attempt
    PARKING = auto()  # is being set aside
    DONE = auto()  # acknowledged or parked


UNDER_WAY = (State.SENT, State.TAKEN, State.WITHDRAWING)


class Event(IntEnum):
    """What happens to one delivery."""

    SEND = auto()
    TAKE = auto()  # it was seen with a receiver
    COMPLETE = auto()  # the receiver acknowledges
    LATE = auto()  # a receiver of a former attempt acknowledges
    FAIL = auto()
    GIVE_UP = auto()  # FAIL, and no attempt is left
    EXPIRE = auto()  # the receiver has had its time
    EXPIRE_LAST = auto()  # EXPIRE, and no attempt is left
    LOSE = auto()  # its job server went away
    REFUSE = auto()  # its job server does not take it
    WITHDRAW = auto()  # the lane closes, and no receiver is known to have taken it
    WITHDRAWN = auto()  # its job is cancelled, and no receiver has it
    DUE = auto()  # its rest is over
    PARK = auto()  # it is set aside
    VANISH = auto()  # the log does not have its message any more
    LAPSE = auto()  # its message has expired
    SKIP = auto()  # a newer message has taken its place


class Action(Enum):
    """What the caller has to do."""

    CANCEL = auto()  # withdraw the job
    STORE = auto()  # keep the failed attempt
    PARK = auto()  # set the message aside


_S, _E, _A = State, Event, Action
DELIVERIES: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (_S.READY, _E.SEND): (_S.SENT, ()),
    (_S.READY, _E.LATE): (_S.DONE, ()),
    (_S.READY, _E.VANISH): (_S.DONE, ()),
    (_S.READY, _E.LAPSE): (_S.DONE, ()),
    (_S.READY, _E.SKIP): (_S.DONE, ()),
    (_S.SENT, _E.TAKE): (_S.TAKEN, ()),
    (_S.SENT, _E.COMPLETE): (_S.DONE, ()),
    (_S.SENT, _E.LATE): (_S.DONE, (_A.CANCEL,)),
    (_S.SENT, _E.FAIL): (_S.RESTING, (_A.STORE,)),
    (_S.SENT, _E.GIVE_UP): (_S.PARKING, (_A.PARK,)),
    (_S.SENT, _E.LOSE): (_S.READY, ()),
    (_S.SENT, _E.REFUSE): (_S.RESTING, ()),
    (_S.SENT, _E.WITHDRAW): (_S.WITHDRAWING, (_A.CANCEL,)),
    (_S.TAKEN, _E.COMPLETE): (_S.DONE, ()),
    (_S.TAKEN, _E.LATE): (_S.DONE, (_A.CANCEL,)),
    (_S.TAKEN, _E.FAIL): (_S.RESTING, (_A.STORE,)),
    (_S.TAKEN, _E.GIVE_UP): (_S.PARKING, (_A.PARK,)),
    (_S.TAKEN, _E.EXPIRE): (_S.RESTING, (_A.CANCEL, _A.STORE)),
    (_S.TAKEN, _E.EXPIRE_LAST): (_S.PARKING, (_A.CANCEL, _A.PARK)),
    (_S.TAKEN, _E.LOSE): (_S.READY, ()),
    (_S.WITHDRAWING, _E.TAKE): (_S.TAKEN, ()),
    (_S.WITHDRAWING, _E.WITHDRAWN): (_S.READY, ()),
    (_S.WITHDRAWING, _E.COMPLETE): (_S.DONE, ()),
    (_S.WITHDRAWING, _E.LATE): (_S.DONE, ()),
    (_S.WITHDRAWING, _E.FAIL): (_S.RESTING, (_A.STORE,)),
    (_S.WITHDRAWING, _E.GIVE_UP): (_S.PARKING, (_A.PARK,)),
    (_S.WITHDRAWING, _E.LOSE): (_S.READY, ()),
    (_S.RESTING, _E.DUE): (_S.READY, ()),
    (_S.RESTING, _E.LATE): (_S.DONE, ()),
    (_S.RESTING, _E.SKIP): (_S.DONE, ()),
    (_S.PARKING, _E.PARK): (_S.DONE, ()),
}


class LaneState(Enum):
    """Of a lane in the hands of one member."""

    TAKING_OVER = auto()  # a receiver may still have a job of the former owner
    OPEN = auto()
    CLOSING = auto()  # sends nothing more; gives the lane up when nothing is under way
    CLOSED = auto()  # is free, or another member's


class LaneEvent(Enum):
    """What happens to a lane."""

    RELEASED = auto()  # no receiver has a job of the former owner any more
    CLOSE = auto()  # it is for another member, or for another TERM
    IDLE = auto()  # nothing is under way
    FENCE = auto()  # it is not this member's any more


_L, _V = LaneState, LaneEvent
LANES: dict[tuple[LaneState, LaneEvent], LaneState] = {
    (_L.TAKING_OVER, _V.RELEASED): _L.OPEN,
    (_L.TAKING_OVER, _V.CLOSE): _L.CLOSING,
    (_L.TAKING_OVER, _V.FENCE): _L.CLOSED,
    (_L.OPEN, _V.CLOSE): _L.CLOSING,
    (_L.OPEN, _V.FENCE): _L.CLOSED,
    (_L.CLOSING, _V.IDLE): _L.CLOSED,
    (_L.CLOSING, _V.FENCE): _L.CLOSED,
}
