"""What an installed gearhorn consists of: run by ``scripts/packages`` in a new environment.

Rules: imports nothing of the checkout, and needs nothing but what gearhorn itself does.
"""

from __future__ import annotations

import sys
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import gearhorn

HELD = {
    "Name": "gearhorn",
    "License-File": "LICENSE",
    "Requires-Python": ">=3.11",
    "Description-Content-Type": "text/x-rst",
}
CLASSIFIERS = ("Typing :: Typed", "Operating System :: POSIX :: Linux", "Framework :: AsyncIO")


def main() -> None:
    """Raise ``AssertionError`` for what is missing."""
    checkout = Path(__file__).resolve().parents[1]
    package = files("gearhorn")
    assert checkout not in Path(str(package)).parents, "this is the checkout"
    for part in ("py.typed", "__init__.pyi", "store/lua/change.lua", "store/lua/append.lua"):
        assert (package / part).is_file(), f"{part} is missing"
    told = metadata("gearhorn")
    for key, value in HELD.items():
        assert told[key] == value, f"{key} is {told[key]!r}"
    assert told["Version"] == gearhorn.__version__
    classifiers = told.get_all("Classifier") or []
    version = f"Programming Language :: Python :: {sys.version_info[0]}.{sys.version_info[1]}"
    for classifier in (*CLASSIFIERS, version):
        assert classifier in classifiers, f"{classifier} is missing"
    for name in ("Publisher", "Subscriber", "Log", "Admin"):
        assert isinstance(getattr(gearhorn, name), type), name


if __name__ == "__main__":
    main()
