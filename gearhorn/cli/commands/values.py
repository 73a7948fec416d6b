"""Values of options that several subcommands have.

Rules: pure. A wrong value is ``click.UsageError``, and says what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable

import click


def headers_of(texts: Iterable[str]) -> dict[str, str] | None:
    """Return the headers of ``--header NAME:VALUE``, None where there are none; raises
    ``click.UsageError``."""
    headers = {}
    for text in texts:
        name, separator, value = text.partition(":")
        if not separator:
            raise click.UsageError(f"--header: expected NAME:VALUE, got {text!r}")
        headers[name.strip()] = value.strip()
    return headers or None


def quorum_of(text: str | None) -> int | str | None:
    """Return ``--quorum`` as requests have it: a number, or a part such as "50%"."""
    return int(text) if text is not None and text.isdigit() else text
