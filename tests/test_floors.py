"""The house keeps its shape: rooms import downwards and to the left, as docs/house.md draws them, at the top of their files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lit_cartridges"
FOLDERS = {PACKAGE: PACKAGE, "callbacks": f"{PACKAGE}.callbacks", "recipes": f"{PACKAGE}.recipes"}
LATE = {
    "cascade": "its kernels need Triton, and are imported where they run",
    "__init__.py": "its names are imported when they are asked for",
    "cli.py": "starts without torch",
    "commands": "their parsers start without torch",
    "cartridge.py": "a chat's renderer comes with Parquet, which a cartridge alone does not need",
}


@cache
def modules() -> dict[str, Path]:
    """All modules by name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    """The folder of a module inside of the package, or the file where it stands beside the folders."""
    path = module.split(".")[1:]
    if modules()[module].name != "__init__.py":
        path = path[:-1] or [f"{path[-1]}.py"]
    return "/".join(path) or "__init__.py"


def imported(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Our own modules that a file imports, and whether it does so inside of a function; not those for types alone."""

    def visit(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in modules() else str(node.module)), late
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    return visit(tree, False)


@cache
def imports() -> list[tuple[str, str, bool]]:
    """(a module, what it imports, whether late), all of them."""
    return [
        (module, other, late)
        for module, path in modules().items()
        for other, late in imported(ast.parse(path.read_text(encoding="utf-8")))
    ]


@cache
def places() -> dict[str, tuple[int, int]]:
    """Each room's floor, counted from the top, and its place on it."""
    rows = re.findall(r"^\| [^|]+ \| (`.*`) \|$", (ROOT / "docs" / "house.md").read_text(), re.M)
    return {
        room: (floor, place)
        for floor, row in enumerate(rows)
        for place, room in enumerate(re.findall(r"`([^`]+)`", row))
    }


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in modules()}
    assert rooms == set(places()), "docs/house.md names each room once, and no room that is not there"


def test_rooms_import_downwards_and_to_the_left():
    climbing = [
        f"{module} imports {other}: {room_of(other)} is not below {room_of(module)}, nor to its left"
        for module, other, _ in imports()
        if (mine := room_of(module)) != (theirs := room_of(other))
        and not (
            places()[theirs][0] > places()[mine][0]
            or (places()[theirs][0] == places()[mine][0] and places()[theirs][1] < places()[mine][1])
        )
    ]
    assert not climbing, "\n".join(climbing)


def test_no_two_files_need_each_other():
    graph: dict[str, set[str]] = {}
    for module, other, _ in imports():
        if module != other:
            graph.setdefault(module, set()).add(other)
    list(TopologicalSorter(graph).static_order())  # a CycleError names the files


def test_late_imports_are_those_that_have_a_reason():
    late = {room_of(module) for module, _, is_late in imports() if is_late}
    assert late == set(LATE), (
        "an import of ours stands at the top of its file; LATE has the exceptions with their reasons"
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from lit_cartridges.runs import atomic_files", [("lit_cartridges.runs.atomic_files", False)]),
        ("import lit_cartridges.errors", [("lit_cartridges.errors", False)]),
        ("def f():\n  from lit_cartridges.errors import shown", [("lit_cartridges.errors", True)]),
        ("if TYPE_CHECKING:\n  from lit_cartridges.errors import shown", []),
        ("import torch", []),
    ],
)
def test_what_counts_as_an_import(source, found):
    assert list(imported(ast.parse(source))) == found
