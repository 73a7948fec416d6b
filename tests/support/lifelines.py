"""What tests start ends with them, even if pytest is killed and can clean nothing up.

Servers and workers that outlive their run use the processors of the next one, and may take a port
that it is about to use. ``setpriv`` asks Linux for a signal at the parent's end (PR_SET_PDEATHSIG)
and then becomes the command, under the same process id. The other way, a ``preexec_fn`` that makes
the same system call, forks a process that may have threads, which Python warns of from 3.12 on.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence

_SETPRIV = shutil.which("setpriv")  # of util-linux; elsewhere nothing is asked for


def tied(command: Sequence[str]) -> list[str]:
    """Return the command line of a process that is killed once its parent has ended.

    For Linux the parent is the thread that starts it: what another thread than the main one starts
    would end with that thread, and is left as it is.
    """
    if _SETPRIV is None or threading.current_thread() is not threading.main_thread():
        return [*command]
    return [_SETPRIV, "--pdeathsig", "KILL", "--", *command]
