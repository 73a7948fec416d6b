"""What each error of a store means. Real servers are brought into these states in
tests/contract/test_store_refusals.py and test_store_clusters.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gearhorn.errors import StoreError, StoreNoWrites, StoreReadOnly, StoreRefused
from gearhorn.store.refusals import TABLE, code_of, refusal

SCRIPT = "script: 6e2c, on @user_script:7."
TEXTS = {
    "READONLY You can't write against a read only replica.": StoreReadOnly,
    f"READONLY You can't write against a read only replica. {SCRIPT}": StoreReadOnly,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": (
        StoreReadOnly
    ),
    "MOVED 3000 127.0.0.1:7001": StoreReadOnly,
    "ASK 3000 127.0.0.1:7001": StoreReadOnly,
    "CLUSTERDOWN Hash slot not served": StoreError,
    "TRYAGAIN Multiple keys request during rehashing of slot": StoreError,
    "CROSSSLOT Keys in request don't hash to the same slot": StoreError,
    "LOADING Redis is loading the dataset in memory": StoreError,
    "BUSY Redis is busy running a script.": StoreError,
    "OOM command not allowed when used memory > 'maxmemory'.": StoreNoWrites,
    f"OOM command not allowed when used memory > 'maxmemory'. {SCRIPT}": StoreNoWrites,
    "ERR Error running script (call to f_6e): @user_script:7: -OOM command not allowed when used "
    "memory > 'maxmemory'.": StoreNoWrites,
    "MISCONF Redis is configured to save RDB snapshots, but it's unable to.": StoreNoWrites,
    "NOREPLICAS Not enough good replicas to write.": StoreNoWrites,
    "NOAUTH Authentication required.": StoreError,
    "WRONGPASS invalid username-password pair or user is disabled.": StoreError,
    "NOPERM No permissions to access a channel": StoreError,
    "WRONGTYPE Operation against a key holding the wrong kind of value": StoreRefused,
    f"WRONGTYPE Operation against a key holding the wrong kind of value {SCRIPT}": StoreRefused,
    "ERR max number of clients reached": StoreError,
    f"ERR user_script:7: attempt to perform arithmetic on a nil value {SCRIPT}": StoreRefused,
    "ERR hash value is not an integer": StoreRefused,
    "ERR value is not an integer or out of range": StoreRefused,
    "ERR unknown command 'EVALSHA'": StoreError,
    "NEWCODE what no release has said yet": StoreError,
    "": StoreError,
}


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_says_what_is_done_and_keeps_the_stores_text_whole(text: str) -> None:
    error = refusal(text)
    assert type(error) is TEXTS[text]
    assert str(error) == text


def test_every_row_is_met_by_a_text_and_no_row_hides_another() -> None:
    met = {next(row for row in TABLE if row.fits(code_of(t), t)) for t in TEXTS if refused(t)}
    assert met == set(TABLE)


def refused(text: str) -> bool:
    return any(row.fits(code_of(text), text) for row in TABLE)


def test_operators_are_told_of_every_row() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "operations.rst"
    table = docs.read_text().partition(":name: refusal-table")[2].partition("\n\nRefused")[0]
    done = {
        StoreError: "Fan-outs wait|The same",
        StoreReadOnly: "looked up anew",
        StoreNoWrites: "are refused. Other fan-outs go on",
        StoreRefused: "this topic are refused",
    }
    for row in TABLE:
        entry = next(e for e in table.split("* - ") if re.match(rf"(``\w+``, )*``{row.code}\b", e))
        if row.code != "ERR":
            assert re.search(done[row.error], " ".join(entry.split())), row
