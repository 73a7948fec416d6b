"""The Lua scripts: which files each is made of, and the name that a server knows it by.

A script is one atomic step of the store: no other client's command comes between its own. It holds
all clients up while it runs, so each is bounded to a few milliseconds, and its header says by what.
Lua has no imports in a server, so what scripts share (``log``, ``asked``, ``answers``, ``parked``,
``version``, ``sums``, ``standing``) is put in front of the file that uses it. The header of each
file in ``lua/`` says why its step has to be atomic, its keys, arguments and result, and what it
costs.

Redis gives a script its keys apart from its arguments, and a cluster finds the node by them. A
script never makes a key's name by itself.

Rules: pure, but for the files of ``lua/``, which are read when this module is imported.
"""

from __future__ import annotations

from hashlib import sha1
from importlib import resources

# What a server that is short of memory still runs, as the first line of a script says (Redis 7.0
# and later). A script that only reads runs in any case. One that frees memory, or without which
# members could not hold their leases and lanes, is allowed to. One that makes subscriptions or log
# entries, "", is refused before it begins, and not in the middle, when half of it is written.
_FREES, _READS, _GROWS = "allow-oom", "no-writes", ""


def _script(flags: str, *names: str) -> str:
    """Return a script made of the texts of files: what it needs of others goes in front."""
    folder = resources.files(__package__) / "lua"
    texts = [folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names]
    return "".join([f"#!lua flags={flags}\n" if flags else "#!lua\n", *texts])


_CHANGE = ("log", "version", "answers", "sums", "standing", "change")
SCRIPTS = {
    "change": _script(_GROWS, *_CHANGE),
    "end": _script(_FREES, *_CHANGE),  # the changes that end a subscription
    "retain": _script(_FREES, "log", "version", "answers", "retain"),
    "withdraw": _script(_FREES, "answers", "withdraw"),
    "append": _script(_GROWS, "log", "asked", "sums", "append"),
    "void": _script(_FREES, "log", "asked", "sums", "append"),  # what gives an append up
    "fetch": _script(_FREES, "log", "sums", "standing", "fetch"),
    "prune": _script(_FREES, "log", "prune"),
    "read": _script(_READS, "log", "read"),
    "list": _script(_READS, "list"),
    "page": _script(_READS, "page"),
    "most": _script(_READS, "most"),
    "patterns": _script(_READS, "patterns"),
    "park": _script(_FREES, "log", "parked", "sums", "park"),
    "note": _script(_FREES, "parked", "sums", "note"),
    "redrive": _script(_FREES, "asked", "parked", "sums", "redrive"),
    "count": _script(_FREES, "asked", "sums", "count"),
    "advance": _script(_FREES, "sums", "standing", "advance"),
    **{name: _script(_FREES, name) for name in ("member", "remove", "unmark", "acquire", "forget")},
}
# as EVALSHA names them: a batch carries 40 bytes for a script instead of its text
SHA = {name: sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}
