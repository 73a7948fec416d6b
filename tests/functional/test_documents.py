"""The documents: Sphinx makes pages of them without a warning, and their links lead somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.servers import ROOT

MAKE_S = 120.0  # it takes five seconds of a core


def test_the_pages_are_made_without_a_warning(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "manual.py"), "--offline", "--to", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=MAKE_S,
        check=False,
    )
    assert (made.stderr, made.returncode) == ("", 0)
    api = (tmp_path / "html" / "api.html").read_text()
    for name in ("gearhorn.Publisher.publish", "gearhorn.Subscriber.on", "gearhorn.Busy"):
        assert f'id="{name}"' in api
