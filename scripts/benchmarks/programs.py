"""Processes that take part in a measurement: ``python -m benchmarks.MODULE``.

Rules: one JSON object on standard input says what to do. The first line on standard output says
that the process is ready, the second is its result, one JSON object. What goes wrong there is told
on its standard error and is a RuntimeError here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self


class Program:
    """Use as a context, which waits until the process is ready and ends it."""

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings))
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self._line()
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()

    def result(self) -> Any:
        """Wait for the result."""
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            words = self._process.stderr.read().strip()
            raise RuntimeError(f"benchmarks.{self._module} ended: {words or 'without a word'}")
        return line


def settings() -> Any:
    """In the process: what to do."""
    return json.load(sys.stdin)


def answer(what: object) -> None:
    """In the process: say that it is ready, or the result."""
    print(json.dumps(what), flush=True)
