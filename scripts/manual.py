"""What Sphinx does not know of gearhorn's documents, and the check of the pages that it made.

The documents are read in the repository too, where one refers to another by its file:
```protocol.rst <protocol.rst>`__``. Here such a link leads to the page; one to any other file of
the repository, such as an example, brings that file along. Docstrings name sections by their titles
(``docs/protocol.rst, "Unique ids"``), which become links as well.

``scripts/docs`` calls ``main``, which has Sphinx make the pages and load this as an extension
(``setup``).

Rules: a warning of Sphinx, or a link within the pages that leads nowhere, is a failure. Links to
other hosts are tried by Sphinx, and only where the network answers.
"""

from __future__ import annotations

import argparse
import html.parser
import importlib
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.cmd.build import build_main
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs"
PAGES = {"README.rst": "readme", "CHANGES.rst": "changes"}  # of files beside the directory
PROBE, PROBE_S = "github.com", 3.0
BEFORE_COLLECTORS = 400  # of the listeners to one event; Sphinx's own, which copy files, have 500
_SECTION = re.compile(
    r'docs/(?P<document>\w+)\.rst,\s+"(?P<title>[^"]+)"'
    r'|"(?P<title2>[^"]+)"\s+in\s+docs/(?P<document2>\w+)\.rst'
)
_NAME = re.compile(r"``(gearhorn(?:\.aio|\.testing)?\.[A-Z]\w+(?:\.\w+)?)``")
_PUBLIC = ("gearhorn", "gearhorn.testing", "gearhorn.aio")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this when it loads the extension."""
    app.connect("doctree-read", link_files, priority=BEFORE_COLLECTORS)
    app.connect("doctree-read", drop_contents)
    app.connect("autodoc-process-docstring", link_names)
    app.connect("autodoc-process-signature", mend_signature)
    app.connect("missing-reference", find_public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Make links to files of the repository links to pages, or to copies of the files; those to
    folders are no links here."""
    here = Path(doctree["source"]).parent
    for link in list(doctree.findall(nodes.reference)):
        url = urlsplit(link.get("refuri", ""))
        if url.scheme or url.netloc or not url.path:
            continue
        path = (here / url.path).resolve()
        if not path.exists():  # a page of a file at the top has links that begin there
            path = ROOT / url.path
        name = PAGES.get(path.name)
        if name is None and path.suffix == ".rst" and path.is_relative_to(SOURCE):
            name = path.relative_to(SOURCE).with_suffix("").as_posix()
        new: nodes.Element
        if path.is_dir():
            new = nodes.inline()
        elif name is None:
            new = addnodes.download_reference("", reftarget=os.path.relpath(path, here))
        else:
            new = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=f"/{name}", refexplicit=True
            )
            new["refwarn"] = True
        new += nodes.inline("", link.astext())
        link.replace_self(new)


def drop_contents(app: Sphinx, doctree: nodes.document) -> None:
    """Take away a document's own table of contents, and the links of titles to it: the page has
    one at its side."""
    for topic in list(doctree.findall(nodes.topic)):
        if "contents" in topic["classes"]:
            topic.parent.remove(topic)
    for title in doctree.findall(nodes.title):
        title.attributes.pop("refid", None)


def link_names(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make the sections and the public classes that a docstring names links. A reference may be
    broken over lines, so the docstring is searched as a whole."""

    def linked(found: re.Match[str]) -> str:
        document = found["document"] or found["document2"]
        title = " ".join((found["title"] or found["title2"]).split()).replace("``", "")
        return f":ref:`{title} <{document}:{title}>`"

    text = _SECTION.sub(linked, "\n".join(lines))
    lines[:] = _NAME.sub(r":py:obj:`\1`", text).split("\n")


def mend_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    given: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Say that a blocking method iterates, since its annotations are those of the method for
    asyncio; and what a dataclass has where it is given no mapping."""
    if returned and not name.startswith("gearhorn.aio."):
        returned = returned.replace("AsyncIterator", "Iterator")
    return given and given.replace("<factory>", "{}"), returned


def find_public(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find what is public under the name by which it is imported.

    Annotations name the module in which something is defined, or, of a type that is imported for
    checkers only, no module. The page that refers to it decides between the blocking classes and
    those for asyncio.
    """
    name = node.get("reftarget", "").rpartition(".")[2]
    order = reversed(_PUBLIC) if node.get("py:module") == "gearhorn.aio" else iter(_PUBLIC)
    python = env.get_domain("py")
    for module in order:
        if name not in importlib.import_module(module).__all__:
            continue
        for kind in ("class", "exc"):
            found = python.resolve_xref(
                env, node["refdoc"], app.builder, kind, f"{module}.{name}", node, content
            )
            if found is not None:
                return found
    return None


class Page(html.parser.HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


def broken(directory: Path) -> Iterator[str]:
    """Yield the links within the pages of a directory that lead nowhere, with their pages."""
    pages = {path: Page(path.read_text()) for path in sorted(directory.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            to = (path.parent / unquote(url.path)).resolve() if url.path else path
            is_there = to.exists()
            if is_there and url.fragment and to in pages:
                is_there = unquote(url.fragment) in pages[to].ids
            if not is_there:
                yield f"{path.relative_to(directory)}: {link}"


def is_online() -> bool:
    """Whether the network answers, seen by the host to which most links lead."""
    try:
        socket.create_connection((PROBE, 443), PROBE_S).close()
    except OSError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pages and check their links; return 1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(description="Make the documents' pages and check their links.")
    parser.add_argument("--to", type=Path, default=SOURCE / "_build", help="where they go")
    parser.add_argument("--offline", action="store_true", help="try no links to other hosts")
    given = parser.parse_args(arguments)
    made = given.to.resolve()
    # A warning is an error, but the others are wanted as well.
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--doctree-dir", str(made / "tree")]
    if build_main([*options, "--builder", "html", str(SOURCE), str(made / "html")]):
        return 1
    found = list(broken(made / "html"))
    for line in found:
        print(f"broken link  {line}", file=sys.stderr)
    if found:
        return 1
    if given.offline:
        print("Links to other hosts were not tried.")
    elif not is_online():
        print(f"Links to other hosts were not tried: {PROBE} does not answer.")
    elif build_main([*options, "--builder", "linkcheck", str(SOURCE), str(made / "links")]):
        return 1
    print(f"The documents are in {made / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
