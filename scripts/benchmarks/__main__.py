"""``scripts/bench``: runs every group of measurements, prints one table, writes JSON beside it."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import (
    against,
    durables,
    fanouts,
    foregrounds,
    large,
    libraries,
    members,
    memory,
    others,
    payloads,
    peers,
    subscribing,
)
from benchmarks.lines import Line, Plan
from benchmarks.processes import Neighbours
from benchmarks.report import show, write
from benchmarks.versions import missing, versions

GROUPS = {
    "fanout": fanouts.measure,
    "others": others.measure,
    "peers": peers.measure,
    "foreground": foregrounds.measure,
    "subscribe": subscribing.measure,
    "members": members.measure,
    "payload": payloads.measure,
    "memory": memory.measure,
    "durable": durables.measure,
    "large": large.measure,
    "library": libraries.measure,
}
ROUNDS, QUICK_ROUNDS = 5, 2
QUICK_AMOUNT = 0.25
RESULTS = Path(__file__).resolve().parents[2] / "bench-results"
WIDTH = 150  # where the output is no terminal


def main() -> int:
    """Return the exit code: 0 whether targets are met or not, 2 if nothing can be measured."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures gearhorn.")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, {QUICK_ROUNDS} with --quick")
    parser.add_argument("--quick", action="store_true", help="a rough answer within a minute")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default bench-results/DATE.json")
    words = "compare with another checkout, in turn"
    parser.add_argument("--against", type=Path, metavar="PATH", help=words)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"--only: expected some of {', '.join(GROUPS)}, got {', '.join(unknown)}")
    default = QUICK_ROUNDS if options.quick else ROUNDS
    rounds = default if options.rounds is None else options.rounds
    if rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {rounds}")
    if needed := missing():
        print(f"scripts/bench needs {' and '.join(needed)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    if options.against:
        more = ["--quick"] if options.quick else []
        pairs = against.compare(options.against, names, rounds, more)
        pairs.show(_console(), options.against)
        return 0
    plan = Plan(rounds, QUICK_AMOUNT if options.quick else 1.0)
    lines, neighbours = _measure(names, plan)
    about = versions(plan.versions)
    console = _console()
    show(lines, about, rounds, neighbours, console)
    path = options.json or RESULTS / f"{str(about['date'])[:19].replace(':', '')}.json"
    write(path, lines, about, rounds=rounds, quick=options.quick, neighbours_cores=neighbours)
    console.print(f"All rounds: {path}", soft_wrap=True)
    return 0


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _measure(names: list[str], plan: Plan) -> tuple[list[Line], dict[str, float]]:
    """Return the lines, and how many cores other programs used during each group."""
    lines, used = [], {}
    for name in names:
        began = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        neighbours = Neighbours()
        lines += GROUPS[name](plan)
        used[name] = neighbours.cores()
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return lines, used


if __name__ == "__main__":
    sys.exit(main())
