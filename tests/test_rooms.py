"""The rooms of the package: imports point one way, without circles."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flowspan

PACKAGE = Path(flowspan.__file__).parent
ALLOWED: dict[str, set[str]] = {
    "recording": {"objectives"},
    "objectives": set(),
    "_prefect": {"objectives", "recording"},
    "export": set(),
    "log_capture": {"export", "recording"},
    "read": set(),
    "analysis": {"read"},
    "views": {"analysis", "read"},
    "collector": set(),
    "watching": {"_prefect", "export", "objectives", "recording"},
}
"""The rooms that each room may import; all may import the top-level modules."""


def modules() -> dict[str, Path]:
    """Map the name of each module to its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Yield the modules that a module imports: at its top, in functions, and for types."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


GRAPH = {name: set(imports(name)) - {name} for name in MODULES}


def room(name: str) -> str:
    return name.split(".")[1] if name.count(".") else ""


def test_the_imports_are_seen() -> None:
    """The walk sees imports at the top, for types only, and inside functions."""
    assert "flowspan.read.span" in GRAPH["flowspan.analysis.tree"]
    assert "flowspan.recording.recorder" in GRAPH["flowspan._prefect.observer"]
    assert "flowspan.read.server" in GRAPH["flowspan.cli.options"]


def test_no_modules_import_each_other() -> None:
    """There is no circle, not even one of imports for types only."""
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", ALLOWED)
def test_rooms_import_in_one_direction(name: str) -> None:
    """The recording and the reading wing share only the ground floor."""
    forbidden = {"cli", "instrumentor", "logs", *ALLOWED} - ALLOWED[name] - {name}
    used = {(one, other) for one in MODULES if room(one) == name for other in GRAPH[one]}
    assert {(one, other) for one, other in used if room(other) in forbidden} == set()


TESTS = Path(__file__).parent


def test_tests_mirror_the_package() -> None:
    """Each room has a folder of tests."""
    assert set(ALLOWED) | {"cli"} <= {path.name for path in TESTS.iterdir() if path.is_dir()}


def test_no_test_imports_another() -> None:
    """Helpers that two test files need are in a separate module."""
    found = [
        (path.name, node.module)
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("test_")
    ]
    assert found == []
