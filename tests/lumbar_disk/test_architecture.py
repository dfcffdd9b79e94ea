"""The shape of the study: folders in one order, one door each, files that can be read in one sitting."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import lumbar_disk

ROOT = Path(lumbar_disk.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "api" / "lumbar_disk.md"
ORDER = ["_core", "data", "virtual", "network", "study", "report", "ood", "demo", "cli"]
DOORS = ORDER[1:]
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in ORDER)


def room(path):
    inside = path.relative_to(ROOT)
    return inside.parts[0].removesuffix(".py")


def imports(path):
    """The modules that a file imports; a name of the package itself counts as a module of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "lumbar_disk":
                yield from (f"lumbar_disk.{alias.name}" for alias in node.names)
            elif node.module.split(".")[0] in ("advreg", "lumbar_disk"):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_folder_has_its_place_in_the_order():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    files = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert folders | files == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_and_through_the_doors(path):
    for module in imports(path):
        package, *names = module.split(".")
        if package == "advreg":
            assert not any(name.startswith("_") for name in names), f"{module} is private to the library"
        elif package == "lumbar_disk":
            assert ORDER.index(names[0]) <= ORDER.index(room(path)), f"{module} comes later in the order"
            if names[0] not in ("_core", room(path)):
                assert len(names) == 1, f"{module}: other folders are imported through their door"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path):
    source = path.read_text()
    text = {0}
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            text |= set(range(node.lineno, node.end_lineno + 1))
    code = [line for number, line in enumerate(source.splitlines(), 1) if number not in text and line.strip()]
    assert len(code) <= 400


@pytest.mark.parametrize("name", DOORS)
def test_a_door_says_what_is_public_and_documents_it(name):
    door = importlib.import_module(f"lumbar_disk.{name}")
    assert door.__doc__
    assert f"automodule:: lumbar_disk.{name}\n" in DOCS.read_text() or name == "cli"
    for public in getattr(door, "__all__", ()):
        thing = getattr(door, public)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert inspect.getdoc(thing), public
            assert thing.__module__.startswith(f"lumbar_disk.{name}"), f"{public} has two paths"
