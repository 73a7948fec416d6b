"""The Lua scripts: which files each is made of, and the name that a server knows it by.

Rules: pure, but for the files of ``lua/``, which are read when this module is imported.
"""

from __future__ import annotations

from hashlib import sha1
from importlib import resources

# What a server that is short of memory still runs: what frees memory, and what those who do need to
# hold. The first line of a script says so (Redis 7.0 and later); "" is refused before it begins.
_FREES, _READS, _GROWS = "allow-oom", "no-writes", ""


def _script(flags: str, *names: str) -> str:
    """Return a script made of the texts of files: what it needs of others goes in front."""
    folder = resources.files(__package__) / "lua"
    texts = [folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names]
    return "".join([f"#!lua flags={flags}\n" if flags else "#!lua\n", *texts])


SCRIPTS = {
    "change": _script(_GROWS, "log", "version", "answers", "change"),
    "end": _script(
        _FREES, "log", "version", "answers", "change"
    ),  # the changes that end a subscription
    "retain": _script(_FREES, "log", "version", "answers", "retain"),
    "withdraw": _script(_FREES, "answers", "withdraw"),
    "append": _script(_GROWS, "log", "asked", "append"),
    "void": _script(_FREES, "log", "asked", "append"),  # what gives an append up
    "fetch": _script(_FREES, "log", "fetch"),
    "prune": _script(_FREES, "log", "prune"),
    "read": _script(_READS, "log", "read"),
    "list": _script(_READS, "list"),
    "page": _script(_READS, "page"),
    "park": _script(_FREES, "log", "parked", "park"),
    "note": _script(_FREES, "parked", "note"),
    "redrive": _script(_FREES, "asked", "parked", "redrive"),
    "count": _script(_FREES, "asked", "count"),
    **{
        name: _script(_FREES, name)
        for name in ("member", "remove", "unmark", "acquire", "advance", "forget")
    },
}
# as EVALSHA names them
SHA = {name: sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}
