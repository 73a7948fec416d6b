"""When a connection counts as dead, on a clock that the test turns."""

from __future__ import annotations

from gearhorn.gearman.pulse import (
    ANSWER_S,
    INTERVAL_S,
    LONGEST_S,
    MIN_BYTES,
    PROOF_S,
    TIMEOUT_S,
    Pulse,
    Signs,
)

NOTHING = Signs(0, 0, 0, 0)
TICK_S = 0.5


def ticks(from_s: float, for_s: float) -> list[float]:
    return [from_s + TICK_S * n for n in range(1, int(for_s / TICK_S) + 1)]


def asked(signs: Signs = NOTHING) -> Pulse:
    """A pulse that waits for the answer to an ECHO since 0."""
    pulse = Pulse(-INTERVAL_S)
    assert pulse.is_due(0.0, 0)
    pulse.asked(0.0, signs)
    return pulse


def test_an_echo_is_due_when_nothing_is_heard_for_a_while() -> None:
    pulse = Pulse(0.0)
    assert not pulse.is_due(INTERVAL_S - 0.1, 0)
    assert pulse.is_due(INTERVAL_S, 0)


def test_an_echo_is_due_though_much_is_heard() -> None:
    pulse = Pulse(0.0)
    due = [at_s for at_s in ticks(0.0, PROOF_S) if pulse.is_due(at_s, int(at_s * 1000))]
    assert due == [PROOF_S]


def test_one_echo_is_out_at_a_time_and_its_answer_is_life() -> None:
    pulse = asked()
    assert not pulse.is_due(100.0, 0)
    pulse.answered(1.0, NOTHING)
    assert pulse.why_dead(1.0 + TIMEOUT_S, NOTHING) == ""
    assert pulse.is_due(1.0 + PROOF_S, 0)


def test_silence_is_death() -> None:
    pulse = asked()
    assert pulse.why_dead(TIMEOUT_S, NOTHING) == ""
    assert "ECHO" in pulse.why_dead(TIMEOUT_S + TICK_S, NOTHING)


def test_bytes_that_leave_are_life_as_long_as_they_do() -> None:
    pulse, left = asked(), 0
    for at_s in ticks(0.0, 60.0):
        left += MIN_BYTES // 4
        assert pulse.why_dead(at_s, Signs(0, left, 0, 1)) == ""
    assert pulse.why_dead(61.0 + TIMEOUT_S, Signs(0, left, 0, 1))


def test_a_long_packet_that_arrives_is_life() -> None:
    pulse, heard = asked(), 0
    for at_s in ticks(0.0, 60.0):
        heard += MIN_BYTES // 4
        assert pulse.why_dead(at_s, Signs(heard, 0, 0, 1)) == ""


def test_a_byte_now_and_then_is_none() -> None:
    pulse = asked()
    verdicts = [pulse.why_dead(at_s, Signs(int(at_s), 0, 0, 1)) for at_s in ticks(0.0, 6.0)]
    assert verdicts[-1]


def test_answers_are_life_however_short_they_are() -> None:
    pulse = asked(Signs(0, 0, 0, 100))
    for second in range(1, 60):
        assert pulse.why_dead(float(second), Signs(20 * second, 0, second, 100 - second)) == ""


def test_no_answer_takes_longer_than_the_longest() -> None:
    pulse = asked()
    moved = [Signs(int(at_s) << 20, 0, 0, 0) for at_s in ticks(0.0, LONGEST_S + 1)]
    verdicts = [
        pulse.why_dead(at_s, signs)
        for at_s, signs in zip(ticks(0.0, LONGEST_S + 1), moved, strict=True)
    ]
    assert not any(verdicts[:-2])
    assert verdicts[-1]


def live(pulse: Pulse, until_s: float, signs: Signs) -> str:
    """Answer every ECHO at once, with the same signs; return the verdict."""
    for at_s in ticks(0.0, until_s):
        if reason := pulse.why_dead(at_s, signs):
            return reason
        if pulse.is_due(at_s, signs.heard):
            pulse.asked(at_s, signs)
            signs = signs._replace(heard=signs.heard + 20)
            pulse.answered(at_s, signs)
    return ""


def test_a_server_that_answers_nothing_but_echoes_is_given_up() -> None:
    assert "but to ECHO" in live(Pulse(0.0), ANSWER_S + 10, Signs(0, 0, 7, 3))


def test_a_server_that_is_asked_nothing_is_not() -> None:
    assert live(Pulse(0.0), 10 * ANSWER_S, Signs(0, 0, 7, 0)) == ""


def test_an_answer_in_time_makes_up_for_those_that_waited() -> None:
    pulse = Pulse(0.0)
    assert live(pulse, ANSWER_S - 5, Signs(0, 0, 7, 3)) == ""
    assert pulse.why_dead(ANSWER_S + 10, Signs(0, 0, 8, 2)) == ""
    assert pulse.why_dead(ANSWER_S + 20, Signs(0, 0, 8, 2)) == ""


def test_an_answer_to_no_echo_proves_nothing() -> None:
    pulse = Pulse(0.0)
    pulse.answered(PROOF_S - 1, NOTHING)
    assert pulse.is_due(PROOF_S, 0)


def test_an_answer_to_what_was_asked_ends_the_wait_while_the_echo_is_out() -> None:
    pulse = Pulse(0.0)
    assert live(pulse, ANSWER_S - 5, Signs(0, 0, 7, 3)) == ""
    pulse.asked(ANSWER_S - 4, Signs(0, 0, 7, 3))
    assert pulse.why_dead(ANSWER_S - 3, Signs(0, 0, 8, 2)) == ""
    pulse.answered(ANSWER_S - 2, Signs(0, 0, 8, 2))
    assert pulse.why_dead(2 * ANSWER_S, Signs(0, 0, 8, 2)) == ""
