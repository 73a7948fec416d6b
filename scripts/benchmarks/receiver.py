"""A process that serves queues and answers at once: ``python -m benchmarks.receiver HOST:PORT
BYTES``, of which each of its answers has so many.

Rules: queue names are lines on standard input; a line on standard output says that it serves.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from support.wire import Wire

from benchmarks.raw import serve


@contextlib.contextmanager
def receiver(address: str, queues: Sequence[bytes], answer_bytes: int = 0) -> Iterator[int]:
    """Run the process; yields its id."""
    command = [sys.executable, "-m", "benchmarks.receiver", address, str(answer_bytes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n".join(queues))
        process.stdin.close()
        if not process.stdout.readline():
            raise RuntimeError("the receiver ended")
        with Wire(address) as wire:
            wire.run(queues[0])  # it serves
        yield process.pid
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    names = sys.stdin.buffer.read().split(b"\n")
    print("serves", flush=True)
    serve(sys.argv[1], names, int(sys.argv[2]) * b"r")
