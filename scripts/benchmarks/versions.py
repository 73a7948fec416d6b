"""The versions of everything that takes part, for the result."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_PACKAGES = ("gearhorn", "gear", "msgspec", "redis", "hiredis", "pika", "nats-py", "celery")
_COMMANDS = {
    "gearmand": ("gearmand", "--version"),
    "redis-server": ("redis-server", "--version"),
    "nats-server": ("nats-server", "--version"),
}
_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def missing() -> list[str]:
    """The programs that are needed and not here."""
    return [name for name in ("gearmand", "redis-server") if not shutil.which(name, path=_PLACES)]


def versions(found: Mapping[str, str]) -> dict[str, str | int | None]:
    """Versions by name, those ``found`` on the way included; None is not installed."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "commit": _commit(),
        **{name: _package(name) for name in _PACKAGES},
        **{name: _ask(*command) for name, command in _COMMANDS.items()},
        **found,
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with a mark if files differ from it."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return output.stdout.strip() or None


def _ask(program: str, *arguments: str) -> str | None:
    path = shutil.which(program, path=_PLACES)
    if path is None:
        return None
    output = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    number = _NUMBER.search(output.stdout)
    return number[0] if number else None


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
