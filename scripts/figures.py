"""Figures of the source: what docs/contributing.rst asks for, measured.

``tests/unit/test_figures.py`` holds the ones that are rules; the others are to be looked at.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gearhorn"
FILE_LINES = 450
FUNCTION_LINES = 50
LONG_FUNCTION_LINES = 25
PARAMETERS = 5  # from here on some of them are keyword-only
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its path from the root of the checkout."""
        return str(self.path.relative_to(ROOT))

    @property
    def module(self) -> str:
        """The name that imports it."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts).removesuffix(".__init__")


@dataclass(frozen=True)
class Place:
    """Somewhere in the source that breaks a rule, or comes near."""

    source: Source
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}: {self.text}"


def sources() -> list[Source]:
    """Read the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        found.append(Source(path, text, ast.parse(text)))
    return found


def functions(source: Source) -> Iterator[tuple[str, Function]]:
    """Yield each function with its name, that of its class before it."""

    def walk(node: ast.AST, above: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from walk(child, f"{above}{child.name}.")
            elif isinstance(child, Function):
                yield above + child.name, child
                yield from walk(child, f"{above}{child.name}.")
            else:
                yield from walk(child, above)

    yield from walk(source.tree, "")


def body_lines(function: Function) -> int:
    """Return how many lines a function has, its docstring left out."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function):
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def long_files(found: list[Source], limit: int = FILE_LINES) -> list[Place]:
    """Return files of more than ``limit`` lines."""
    lengths = [(source, len(source.text.splitlines())) for source in found]
    return [Place(source, 1, f"{count} lines") for source, count in lengths if count > limit]


def long_functions(found: list[Source], limit: int = FUNCTION_LINES) -> list[Place]:
    """Return functions of more than ``limit`` lines without their docstrings."""
    return [
        Place(source, function.lineno, f"{name} has {body_lines(function)} lines")
        for source in found
        for name, function in functions(source)
        if body_lines(function) > limit
    ]


def positional_functions(found: list[Source], limit: int = PARAMETERS) -> list[Place]:
    """Return functions that take so many parameters and none of them by keyword only."""
    places = []
    for source in found:
        for name, function in functions(source):
            arguments = function.args
            names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
            count = len([argument for argument in names if argument not in ("self", "cls")])
            if count >= limit and not arguments.kwonlyargs:
                places.append(Place(source, function.lineno, f"{name} takes {count} by position"))
    return places


def foreign_writes(found: list[Source]) -> list[Place]:
    """Return assignments to an attribute of another object than ``self``."""
    places = []
    for source in found:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            else:
                continue
            for target in targets:
                elements = target.elts if isinstance(target, ast.Tuple) else [target]
                places += [
                    Place(source, node.lineno, ast.unparse(element))
                    for element in elements
                    if isinstance(element, ast.Attribute)
                    and not (isinstance(element.value, ast.Name) and element.value.id == "self")
                ]
    return places


def docstring_lines(source: Source) -> set[int]:
    """Return the numbers of the lines that belong to docstrings."""
    lines: set[int] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            lines |= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def explaining_lines(source: Source) -> tuple[int, int]:
    """Return how many lines explain (comments, docstrings, the help of options), and how many are
    not blank."""
    lines = docstring_lines(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and node.arg == "help":
            lines.update(range(node.value.lineno, (node.value.end_lineno or node.value.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            lines.add(token.start[0])
    blank = {n for n, line in enumerate(source.text.splitlines(), 1) if not line.strip()}
    return len(lines - blank), len(source.text.splitlines()) - len(blank)


def own_raises(function: Function) -> Iterator[ast.Raise]:
    """Yield what a function raises itself, not what functions within it do."""
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Raise):
            yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)


def unnamed_errors(found: list[Source]) -> list[Place]:
    """Return public functions that raise an error which their docstring does not name."""
    places = []
    for source in found:
        for name, function in functions(source):
            if any(part.startswith("_") for part in name.split(".")):
                continue
            docstring = ast.get_docstring(function) or ""
            for node in own_raises(function):
                error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if not isinstance(error, ast.Name | ast.Attribute):
                    continue  # raised again, or made by a function
                word = ast.unparse(error).rpartition(".")[2]
                if word[0].isupper() and word not in docstring:
                    places.append(Place(source, node.lineno, f"{name} raises {word}"))
    return places


def imported_modules(path: Path) -> set[str]:
    """Return what a file imports: modules, and names of modules as if they were modules too."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return imported


def imported_by_unit_tests() -> set[str]:
    """Return the modules that unit tests import, themselves or through a bench in ``support``."""
    waiting = list((ROOT / "tests" / "unit").glob("*.py"))
    seen = set(waiting)
    imported: set[str] = set()
    while waiting:
        found = imported_modules(waiting.pop())
        imported |= found
        for name in found:
            support = ROOT / "tests" / Path(*name.split(".")).with_suffix(".py")
            if name.startswith("support.") and support.exists() and support not in seen:
                seen.add(support)
                waiting.append(support)
    return imported


def untested_files(found: list[Source]) -> list[Place]:
    """Return files that no unit test imports."""
    imported = imported_by_unit_tests()
    return [
        Place(source, 1, "no unit test imports it")
        for source in found
        if source.module not in imported and source.path.name != "__init__.py"
    ]


def main(arguments: list[str]) -> None:
    """Print every figure, and with ``--list`` the places that it counts."""
    found = sources()
    lengths = [len(source.text.splitlines()) for source in found]
    explaining, lines = map(sum, zip(*map(explaining_lines, found), strict=True))
    writes = foreign_writes(found)
    print(f"files: {len(found)}, {sum(lengths)} lines, median {statistics.median(lengths):.0f}")
    print(f"comments and docstrings: {explaining / lines:.1%} of the lines that are not blank")
    print(f"writes to foreign attributes: {1000 * len(writes) / sum(lengths):.1f} in 1,000 lines")
    figures = {
        f"files over {FILE_LINES} lines": long_files(found),
        f"functions over {FUNCTION_LINES} lines": long_functions(found),
        f"functions over {LONG_FUNCTION_LINES} lines": long_functions(found, LONG_FUNCTION_LINES),
        f"functions of {PARAMETERS} and more parameters, all positional": positional_functions(
            found
        ),
        "writes to attributes of other objects": writes,
        "errors that a docstring does not name": unnamed_errors(found),
        "files that no unit test imports": untested_files(found),
    }
    for name, places in figures.items():
        print(f"{name}: {len(places)}")
        if "--list" in arguments:
            for place in places:
                print(f"    {place}")


if __name__ == "__main__":
    main(sys.argv[1:])
