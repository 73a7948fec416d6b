"""The judge of the durable stress run knows each thing that must not happen, and nothing else."""

from __future__ import annotations

import pytest
from support.durable_history import Delivery, DeliveryId, DurableHistory

EPOCH = "0123456789abcdef"
E8 = EPOCH[:8]
NEAR_S = 10.0


def history_of(messages: int = 3, queues: str = "q") -> DurableHistory:
    """So many messages m1, m2 … of topic t, published at 0 and each replied to with its number."""
    history = DurableHistory(dict.fromkeys(queues, "t"), NEAR_S)
    for number in range(1, messages + 1):
        history.publish(f"m{number}", "t", 0.0)
        history.reply(f"m{number}", EPOCH, number)
    return history


def deliver(
    history: DurableHistory,
    sequence: int,
    start_s: float,
    end_s: float,
    outcome: str = "done",
    *,
    term: int = 1,
    n: int | None = None,
    queue: str = "q",
    payload: str | None = None,
    epoch: str = E8,
    server: str = "a",
) -> None:
    """One delivery. N is the sequence unless given, so that no id is used twice by accident."""
    unique = f"{epoch}:{sequence}:{term}.{sequence if n is None else n}"
    payload = payload or f"m{sequence}"
    handle = f"H:{unique}"
    history.deliver(Delivery(queue, server, handle, unique, payload, start_s, end_s, outcome))


def good(messages: int = 3) -> DurableHistory:
    """Everything came once, in order: message 1 from 1 to 1.5, message 2 from 2 …"""
    history = history_of(messages)
    for number in range(1, messages + 1):
        deliver(history, number, number, number + 0.5)
    return history


def only(history: DurableHistory, *words: str) -> None:
    """There is one violation, and it says this."""
    [violation] = history.violations()
    for word in words:
        assert word in violation


def test_a_good_history_is_good() -> None:
    history = good()
    assert history.violations() == []
    counts = history.counts()
    assert counts["acknowledged"] == counts["owed"] == counts["deliveries"] == 3
    assert counts["duplicates"] == counts["stale dropped"] == counts["take-overs"] == 0


@pytest.mark.parametrize(
    "text", ["", "x", "0123456:1:1.1", "0123456g:1:1.1", f"{E8}:0:1.1", f"{E8}:1:1", f"{E8}:1:1.1 "]
)
def test_what_is_no_id_of_a_delivery(text: str) -> None:
    assert DeliveryId.parse(text) is None


def test_an_id_of_a_delivery_is_read() -> None:
    assert DeliveryId.parse(f"{E8}:17:3.42") == (E8, 17, 3, 42)


# Lost


def test_what_was_replied_to_and_never_finished_is_lost() -> None:
    history = good()
    history.publish("m4", "t", 0.0)
    history.reply("m4", EPOCH, 4)
    only(history, "q: m4", "lost")
    assert history.counts()["acknowledged"] == 3


@pytest.mark.parametrize("outcome", ["failed", "died", "cut"])
def test_an_attempt_that_did_not_succeed_is_no_acknowledgement(outcome: str) -> None:
    history = good()
    history.publish("m4", "t", 0.0)
    history.reply("m4", EPOCH, 4)
    deliver(history, 4, 5, 5.1, outcome)
    only(history, "q: m4", "lost")
    deliver(history, 4, 6, 6.1, n=5)
    assert history.violations() == []


def test_every_queue_of_the_topic_is_owed_a_message_and_no_other_queue() -> None:
    history = history_of(1, queues="qr")
    history.queues["other"] = "another topic"
    deliver(history, 1, 1, 2)
    only(history, "r: m1", "lost")
    deliver(history, 1, 1, 2, queue="r")
    assert history.violations() == []


def test_what_was_not_replied_to_is_not_owed() -> None:
    history = good()
    history.publish("m4", "t", 0.0)
    assert history.violations() == []
    deliver(history, 4, 5, 5.1)
    assert history.violations() == [], "but it may come"


# Order


def test_a_message_waits_for_the_one_before_it() -> None:
    history = history_of(2)
    deliver(history, 2, 1, 1.5)
    deliver(history, 1, 2, 2.5)
    only(history, f"{E8}:2:1.2", "sequence 1 was finished")


def test_a_message_waits_while_the_one_before_it_fails() -> None:
    history = history_of(2)
    deliver(history, 1, 1, 1.5, "failed")
    deliver(history, 2, 2, 2.5)
    deliver(history, 1, 3, 3.5, n=3)
    only(history, f"{E8}:2:1.2", "sequence 1 was finished at 3.5")
    history = history_of(2)
    deliver(history, 1, 1, 1.5, "failed")
    deliver(history, 1, 3, 3.5, n=3)
    deliver(history, 2, 4, 4.5)
    assert history.violations() == []


def test_the_order_goes_on_across_epochs() -> None:
    history = history_of(1)
    history.publish("m2", "t", 0.0)
    history.reply("m2", "f" * 16, 2)
    deliver(history, 2, 1, 1.5, epoch="f" * 8)
    deliver(history, 1, 2, 2.5)
    only(history, "ffffffff:2:1.2", "sequence 1 was finished")
    assert history.counts()["epochs seen"] == 2


def test_what_is_dropped_or_stale_has_no_place_in_the_order() -> None:
    history = good()
    history.fault("worker killed", 3).end_s = 4
    deliver(history, 3, 3.9, 3.9, "dropped", n=5)
    deliver(history, 2, 4.0, 4.0, "dropped", term=2)
    deliver(history, 1, 5, 6, "dropped", term=1, n=9)
    assert history.violations() == []


# Repeats


def test_a_repeat_needs_a_fault_near_it() -> None:
    history = good()
    deliver(history, 3, 9, 9, "dropped", n=4)
    only(history, f"{E8}:3:1.4", "away from any fault")
    for begin_s, end_s, is_near in [(8, 8.5, True), (0.5, 0.7, True), (10, 11, False)]:
        history.faults.clear()
        history.fault("worker killed", begin_s).end_s = end_s
        assert bool(history.violations()) != is_near
    history = good(30)
    history.fault("worker killed", 1).end_s = 2
    deliver(history, 30, 31, 31, "dropped", n=40)
    only(history, "away from any fault")
    history.fault("worker killed", 25).end_s = 26
    assert history.violations() == []
    assert history.counts()["duplicates"] == 1


def test_a_repeat_that_is_processed_again_is_a_repeat_too() -> None:
    history = good(1)
    deliver(history, 1, 9, 9.5, n=2)
    only(history, "away from any fault")


def test_a_second_delivery_while_the_first_runs_is_a_repeat() -> None:
    history = history_of(1)
    deliver(history, 1, 1, 2)
    deliver(history, 1, 1.5, 2.5, n=2)
    only(history, "away from any fault")


@pytest.mark.parametrize("outcome", ["failed", "died", "cut"])
def test_a_new_attempt_after_one_without_success_is_no_repeat(outcome: str) -> None:
    history = history_of(1)
    deliver(history, 1, 1, 2, outcome)
    deliver(history, 1, 2, 3, n=2)
    assert history.violations() == []
    assert history.counts()["duplicates"] == 0


def test_there_are_no_more_repeats_than_the_faults_explain() -> None:
    history = good(1)
    history.fault("worker killed", 1).end_s = 2
    for n in (2, 3):
        deliver(history, 1, n, n, "dropped", n=n)
    assert history.violations() == []
    deliver(history, 1, 4, 4, "dropped", n=4)
    only(history, "q: 3 repeats with 1 faults")


# Names


def test_two_payloads_of_one_number_are_told() -> None:
    history = good()
    history.publish("m9", "t", 0.0)
    deliver(history, 3, 4, 5, "failed", payload="m9", n=4)
    found = history.violations()
    assert any("t: sequence 3 was given more than once" in one for one in found), found


def test_a_number_that_is_given_again_under_another_epoch_is_told() -> None:
    history = good()
    history.publish("m9", "t", 0.0)
    history.reply("m9", "f" * 16, 3)
    deliver(history, 3, 4, 5, payload="m9", epoch="f" * 8, n=9)
    only(history, "t: sequence 3 was given more than once", "m9 under ffffffff", f"m3 under {E8}")


def test_topics_count_for_themselves() -> None:
    history = good(1)
    history.queues["r"] = "u"
    history.publish("other", "u", 0.0)
    history.reply("other", EPOCH, 1)
    deliver(history, 1, 1, 2, queue="r", payload="other")
    assert history.violations() == []


def test_one_payload_of_two_numbers_is_told_if_it_was_tried_again_in_time() -> None:
    history = good()
    history.publish("m1", "t", 119.0)
    history.reply("m1", EPOCH, 4)
    only(history, "m1 was logged more than once", f"{E8}:1, {E8}:4")
    history.messages["m1"].last_s = 121.0
    assert history.violations() == []


def test_one_payload_that_comes_under_two_numbers_is_told() -> None:
    history = good()
    deliver(history, 4, 4, 5, payload="m3")
    only(history, "m3 was logged more than once")


def test_the_same_number_for_a_second_try_is_right() -> None:
    history = good()
    history.publish("m1", "t", 1.0)
    history.reply("m1", EPOCH, 1)
    assert history.violations() == []
    assert history.counts()["tried again"] == 1


def test_what_nobody_published_is_told() -> None:
    history = good()
    deliver(history, 4, 4, 5, payload="nonsense")
    only(history, "unknown", "nonsense")


def test_what_was_published_to_another_topic_is_told() -> None:
    history = good()
    history.publish("other", "u", 0.0)
    deliver(history, 4, 4, 5, payload="other")
    only(history, "unknown", "other")


def test_a_strange_id_is_told() -> None:
    history = good()
    history.deliver(Delivery("q", "a", "H:1", "", "m1", 4, 5, "done"))
    only(history, "m1 came under the id ''")


def test_an_id_that_two_jobs_had_is_told() -> None:
    history = history_of(1)
    deliver(history, 1, 1, 1.5, "cut")
    deliver(history, 1, 2, 2.5, server="b")
    only(history, "q: 1.1 was used for several jobs")
    history = history_of(2)
    deliver(history, 1, 1, 1.5, n=7)
    deliver(history, 2, 2, 2.5, n=7)
    only(history, "q: 1.7 was used for several jobs")
    history = history_of(2)
    deliver(history, 1, 1, 1.5, n=7)
    deliver(history, 2, 2, 2.5, n=7, term=2)
    assert history.violations() == []
    history = history_of(1)
    deliver(history, 1, 1, 1.5, "died")
    deliver(history, 1, 2, 2.5)
    assert history.violations() == [], "the job server hands it to the next receiver"


# Overlaps


def test_different_messages_do_not_run_at_once() -> None:
    history = good(1)
    history.publish("m2", "t", 0.0)
    deliver(history, 2, 2, 4, "failed")
    history.publish("m4", "t", 0.0)
    deliver(history, 4, 3, 5, "failed")
    found = history.violations()
    assert any("4:1.4 (m4) began at 3.000 while" in one for one in found), found
    assert any("2:1.2 (m2) ran from 2.000 to 4.000" in one for one in found), found


def test_what_began_under_the_highest_term_and_goes_on_is_not_stale() -> None:
    history = history_of(2)
    history.fault("worker killed", 0).end_s = 1
    deliver(history, 1, 1, 5)
    deliver(history, 1, 2, 3, term=2)
    deliver(history, 2, 4, 4.5, term=2)
    only(history, f"{E8}:2:2.2 (m2) began at 4.000 while", f"{E8}:1:1.1 (m1) ran")


def test_the_same_message_may_run_at_once() -> None:
    history = history_of(1)
    history.fault("worker killed", 0).end_s = 1
    deliver(history, 1, 1, 5)
    deliver(history, 1, 2, 3, term=2)
    assert history.violations() == []
    assert history.counts()["take-overs"] == 1


@pytest.mark.parametrize("outcome", ["cut", "done"])
def test_a_run_counts_until_its_job_server_begins_to_go(outcome: str) -> None:
    history = history_of(2)
    deliver(history, 1, 1, 5, outcome)
    deliver(history, 1, 2, 3, term=2, server="b")
    deliver(history, 2, 4, 4.5, term=2, server="b")
    history.fault("worker killed", 1.5).end_s = 5
    only(history, f"{E8}:2:2.2 (m2) began at 4.000 while", f"{E8}:1:1.1 (m1) ran")
    for begin_s, server in [(4.2, "a"), (1.9, "b"), (0.5, "a")]:
        history.fault("gearmand killed", begin_s).died = server
        only(history, f"{E8}:2:2.2 (m2) began at 4.000 while")
    history.fault("gearmand killed", 1.9).died = "a"
    assert history.violations() == []


def test_stale_deliveries_are_dropped_and_counted_whatever_their_receiver_did() -> None:
    history = history_of(2)
    deliver(history, 1, 1, 2, term=2)
    deliver(history, 2, 3, 6, term=2)
    deliver(history, 1, 4, 5, term=1)
    assert history.violations() == []
    counts = history.counts()
    assert counts["stale dropped"] == 1
    assert counts["duplicates"] == 0


def test_queues_count_for_themselves() -> None:
    history = history_of(2, queues="qr")
    for queue, offset_s in (("q", 0), ("r", 0.7)):
        deliver(history, 1, 1 + offset_s, 2 + offset_s, queue=queue)
        deliver(history, 2, 2 + offset_s, 3 + offset_s, queue=queue)
    assert history.violations() == []


# Receivers


def test_a_receiver_that_drops_what_it_needs_is_found_out() -> None:
    history = good(2)
    history.publish("m3", "t", 0.0)
    deliver(history, 3, 5, 5, "dropped")
    only(history, f"{E8}:3:1.3 (m3) was dropped by its receiver for no reason")


def test_a_dropped_delivery_is_no_acknowledgement() -> None:
    history = good(2)
    history.fault("worker killed", 4).end_s = 5
    history.publish("m3", "t", 0.0)
    history.reply("m3", EPOCH, 3)
    deliver(history, 2, 5, 5, "dropped", term=2)
    deliver(history, 3, 6, 6, "dropped", term=1)
    only(history, "q: m3 was replied to, got lost")
