"""Runs the programs of docs/examples, with hosts and ports put in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from support.cluster import Cluster, eventually
from support.servers import HOST, ROOT, missing
from support.wire import admin

EXAMPLES = ROOT / "docs" / "examples"
# who subscribes in which language
CLIENTS = {
    "library": "frank",
    "python": "bob",
    "perl": "carol",
    "php": "dave",
    "c": "erin",
    "shell": "alice",
}
RUN_S = 30.0  # longer than any example that ends takes
C_FLAGS = ("-Wall", "-Wextra", "-Werror")


def programs(language: str) -> list[Path]:
    """The programs in a language."""
    return sorted((EXAMPLES / language).iterdir())


def need(language: str) -> None:
    """Skip the test without what the language's programs need; in CI it fails."""
    checks: dict[str, Callable[[], str | None]] = {
        "perl": lambda: _lacks(
            ["perl", "-MGearman::Client", "-MGearman::Worker", "-e1"], "libgearman-client-perl"
        ),
        "php": lambda: _lacks(
            ["php", "-r", "exit((int) !extension_loaded('gearman'));"], "php-gearman"
        ),
        "c": lambda: _lacks(
            ["sh", "-c", "echo '#include <libgearman/gearman.h>' | cc -E -o /dev/null -"],
            "gcc or libgearman-dev",
        ),
        "shell": lambda: _lacks(["gearman", "-H"], "gearman-tools"),
        "python": lambda: None,
        "library": lambda: None,
    }
    if package := checks[language]():
        missing(package)


@cache
def _is_fine(command: tuple[str, ...]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _lacks(command: Sequence[str], package: str) -> str | None:
    return None if _is_fine(tuple(command)) else package


class Examples:
    """Somebody who types examples beside servers on other ports than they name."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.directory = directory
        self._cluster = cluster
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, name: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run an example, `LANGUAGE/FILE`, to its end; the keywords are replaced in its text."""
        language, _, file = name.partition("/")
        return self.run_program(language, Path(file).stem, **changes)

    def run_program(
        self, language: str, stem: str, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a language's program to its end."""
        return subprocess.run(
            self._command(language, stem, changes),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    def start(self, language: str, stem: str) -> Path:
        """Start a receiver, which does not end by itself; return the file that has its output."""
        output = self.directory / f"{language}-{stem}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self._command(language, stem, {}),
                cwd=self.directory,
                stdout=file,
                stderr=file,
                start_new_session=True,  # a shell and what it runs end together
            )
        self._running.append(process)
        return output

    def wait_for_receiver(self, queue: str) -> None:
        """Wait until one process serves the queue."""
        eventually(lambda: self._receivers(queue) == 1, what=f"{queue} has no receiver")

    def _receivers(self, queue: str) -> int:
        for line in admin(self._cluster.address, "status"):
            name, _, _, workers = line.rsplit("\t", 3)
            if name == queue:
                return int(workers)
        return 0

    def _command(self, language: str, stem: str, changes: dict[str, str]) -> list[str]:
        need(language)
        [source] = (path for path in programs(language) if path.stem == stem)
        code = source.read_text()
        port = str(self._cluster.job_servers[0].port)
        for old, new in {"4730": port, "localhost": HOST, **changes}.items():
            assert old in code, f"{source.name} does not say {old}"
            code = code.replace(old, new)
        program = self.directory / source.name
        program.write_text(code)
        if language == "c":
            binary = program.with_suffix("")
            compiler = ["cc", *C_FLAGS, str(program), "-lgearman", "-o", str(binary)]
            subprocess.run(compiler, check=True, timeout=RUN_S)
            return [str(binary)]
        python = sys.executable
        interpreters = {"python": python, "library": python, "shell": "sh"}
        interpreter = interpreters.get(language, language)
        return [interpreter, str(program)]

    def stop(self) -> None:
        """End what was started and goes on."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
