"""The shape of the code: imports run one way and through doors, files stay short, names are documented."""

import ast
import importlib
import inspect
import io
import pathlib
import re
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from itertools import chain, pairwise

import pytest

import advreg

ROOT = pathlib.Path(__file__).parents[2]

# A room may import from rooms on the levels before its own, never from one beside it.
LIBRARY = (
    ("_core",),
    ("threats", "metrics"),
    ("objectives", "execution", "transforms"),
    ("rules", "evaluation"),
    ("tasks", "detectors", "testing"),
    ("attacks",),
    ("training", "certificates", "diagnosis", "plotting"),
)
STUDY = (
    ("_core",),
    ("data",),
    ("virtual",),
    ("network",),
    ("study",),
    ("report",),
    ("certified", "ood", "weights"),
    ("demo",),
    ("cli",),
)
HOUSES = {
    "advreg": (ROOT / "src" / "advreg", LIBRARY),
    "lumbar_disk": (ROOT / "examples" / "lumbar_disk", STUDY),
}
OPEN = {"_core"}  # rooms that the rest of their house may enter by any file

ROOMS = [room for level in LIBRARY for room in sorted(level) if room not in OPEN]
FILES = [(house, path) for house, (home, _) in HOUSES.items() for path in sorted(home.rglob("*.py"))]
NAMES = [
    (room, name)
    for room in ROOMS
    for name in getattr(importlib.import_module(f"advreg.{room}"), "__all__", ())
]
LENGTH = 400  # lines of code in a file

# Functions that show themselves in the example of another, or cite what another cites.
NO_EXAMPLE = {
    "metrics": {"decide", "mask_like", "probabilities"},
    "objectives": {"J_IND_seg", "J_OOD_reg", "at"},
    "execution": {"evaluating", "is_frozen", "room"},
    "evaluation": {"measure", "written_whole"},
    "rules": {"cosine"},
    "training": {"L_adv_r", "L_adv_s", "L_rand"},
}
# Functions that are nobody's published method.
NO_SOURCE = {
    "attacks": {"value_and_gradient"},
    "detectors": {"lower_score", "report", "score_of", "scores"},
    "certificates": {"over_draws"},
    "evaluation": {"measure", "written_whole"},
    "execution": {"evaluating", "frozen", "heads", "is_frozen", "room", "running"},
    "metrics": {"decide", "mask_like", "probabilities", "threshold"},
    "objectives": {
        *("at", "heads_read", "negate", "normalised", "on", "per_example", "shared", "transformed"),
        *("weighted", "worst_head"),
    },
    "plotting": {"plot_bounds", "plot_brackets", "plot_curves", "plot_front"},
    "tasks": {
        *("boxes", "classes", "heatmaps", "labels", "maps", "masks", "outlines", "points", "surfaces"),
        *("through", "values"),
    },
    "testing": {"check_norm", "check_objective", "check_rule"},
}


def parsed(path):
    return ast.parse(path.read_text())


def imports(tree, house=""):
    """The modules that a file imports from, with the names: `(module, names)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def within(house, path):
    """What a file imports of its own house: `(room, module, names)`."""
    for module, names in imports(parsed(path)):
        assert not module.startswith("."), f"{path.name}: write out advreg.{module}"
        top, *rest = module.split(".")
        if top != house:
            continue
        folder = HOUSES[house][0].joinpath(*rest)
        files = [name for name in names if (folder / f"{name}.py").exists() or (folder / name).is_dir()]
        for file in files:  # a module by its name, such as `from house.room import _file`
            yield (rest[0] if rest else file), f"{module}.{file}", []
        left = [name for name in names if name not in files]
        if left or not files:
            yield (rest[0] if rest else ""), module, left


def room_of(house, path):
    first = path.relative_to(HOUSES[house][0]).parts[0]
    return first.removesuffix(".py")


def name_of(house, path):
    parts = path.relative_to(HOUSES[house][0].parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


each_file = pytest.mark.parametrize(("house", "path"), FILES, ids=lambda it: getattr(it, "name", it))


# Imports


@pytest.mark.parametrize("house", HOUSES)
def test_every_room_has_its_place_in_the_order(house):
    home, levels = HOUSES[house]
    rooms = {path.stem if path.is_file() else path.name for path in home.iterdir()}
    code = {room for room in rooms if (home / f"{room}.py").exists() or any((home / room).glob("*.py"))}
    assert code - {"__init__", "__main__"} == set(chain(*levels))
    assert sum(map(len, levels)) == len(set(chain(*levels)))


@each_file
def test_imports_run_one_way_and_through_the_doors(house, path):
    room, levels = room_of(house, path), HOUSES[house][1]
    if room in ("__init__", "__main__"):
        return  # the house's own door, which is above all rooms
    (place,) = (number for number, level in enumerate(levels) if room in level)
    before = set(chain(*levels[:place]))
    for entered, module, names in within(house, path):
        if entered == room:
            assert module != f"{house}.{room}", f"{path.name} comes in through its own room's door"
            continue
        assert entered in before, f"{path.name} of {room} imports from {module}"
        if entered not in OPEN:
            assert module == f"{house}.{entered}", f"{path.name} enters {entered} past its door: {module}"
            assert set(names) <= set(importlib.import_module(module).__all__), f"{path.name}: {module}"


@pytest.mark.parametrize(
    ("house", "room"), [(house, room) for house, (_, levels) in HOUSES.items() for room in chain(*levels)]
)
def test_inside_a_room_imports_run_one_way(house, room):
    files = {
        name_of(house, path): path for place, path in FILES if place == house and room_of(place, path) == room
    }
    graph = {
        name: {
            found
            for entered, module, names in within(house, path)
            if entered == room
            for found in (module, *(f"{module}.{each}" for each in names))
            if found in files and found != name
        }
        for name, path in files.items()
    }
    assert set(TopologicalSorter(graph).static_order()) == set(files)  # a CycleError names the circle


def test_the_library_never_imports_the_study():
    for house, path in FILES:
        if house == "advreg":
            assert "lumbar_disk" not in path.read_text(), path


FRESH = """
import sys
import advreg
assert [name for name in sys.modules if name.startswith("advreg")] == ["advreg"], sys.modules
assert "torch" not in sys.modules
advreg.linf
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("advreg.")}
assert rooms == {"threats", "_core"}, rooms
"""
ALONE = """
import os, sys
import torch, numpy
for room in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            module = __import__("advreg." + room)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, room
"""


@pytest.mark.parametrize(("program", "arguments"), [(FRESH, []), (ALONE, ROOMS)], ids=["lazy", "alone"])
def test_rooms_are_loaded_when_asked_for_and_each_stands_alone(program, arguments):
    command = [sys.executable, "-c", program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# Doors


def test_the_front_door_is_small_and_its_three_lists_agree():
    names = advreg.__all__
    assert len(names) == len(set(names)) <= 40
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    tree = parsed(ROOT / "src" / "advreg" / "__init__.py")
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {module.removeprefix("advreg").lstrip("."): names for module, names in imports(block)}
    assert set(told.pop("")) == set(advreg._ROOMS) == set(ROOMS)
    assert {room: tuple(names) for room, names in advreg._ROOMS.items() if names} == {
        room: tuple(names) for room, names in told.items()
    }
    assert set(names) == set(advreg._ROOMS) | set(chain(*advreg._ROOMS.values()))
    assert set(names) <= set(dir(advreg))
    for name in names:
        assert getattr(advreg, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'pdg_attack'; it has .*pgd_attack"):
        _ = advreg.pdg_attack


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_lists_what_is_made_in_its_own_room(room):
    module = importlib.import_module(f"advreg.{room}")
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert set(names) >= set(advreg._ROOMS[room])
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    path = pathlib.Path(module.__file__)
    if path.name != "__init__.py":
        return  # a room of one file
    brought = {}
    for source, found in imports(parsed(path)):
        assert source.startswith((f"advreg.{room}._", "advreg._core.")), f"{room} lists names of {source}"
        brought |= dict.fromkeys(found, source)
    assert set(brought) == set(names)
    for name, source in brought.items():
        defined = set(named(parsed_module(source)))
        package = importlib.import_module(source).__file__.endswith("__init__.py")
        assert name in defined or package, f"{name} comes from elsewhere than {source}"


def parsed_module(name):
    return parsed(pathlib.Path(importlib.import_module(name).__file__))


def test_a_name_stands_in_one_door_only():
    doors = {}
    for room, name in NAMES:
        doors.setdefault(name, []).append(room)
    assert {name: rooms for name, rooms in doors.items() if len(rooms) > 1} == {}
    assert not set(doors) & set(ROOMS)  # a name is no room


# Files


def lines_of_code(text):
    """Lines that hold more than a docstring, a comment or nothing."""
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    layout = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        line
        for token in tokens
        if tokenize.tok_name[token.type] not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - documented)


def test_lines_of_code_are_counted_without_what_explains_them():
    text = '"""Doc.\n\nMore."""\n\nx = 1  # why\n# why\n\n\ndef f():\n    """Doc."""\n    return """a\nb"""\n'
    assert lines_of_code(text) == 4


@each_file
def test_files_can_be_read_in_one_sitting(house, path):
    assert lines_of_code(path.read_text()) <= LENGTH


OWN = {"_replace", "_asdict", "_fields", "__dict__"}  # named tuples offer these to everybody


def named(tree):
    """The names that a file makes: functions, classes, variables, fields, attributes, arguments."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.ImportFrom(module=module) if module and module.startswith("advreg"):
                yield from (part for part in module.split("."))
                yield from (alias.name for alias in node.names)


def foreign(tree):
    """The private names of others that a file reads."""

    def private(name):
        return name.startswith("_") and not name.endswith("__")

    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if private(name):
                yield name
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                yield from [name] if private(name) else []
            case ast.ImportFrom(module=module) if module and not module.startswith("advreg"):
                yield from (part for part in module.split(".") if private(part) and module != "__future__")
                yield from (alias.name for alias in node.names if private(alias.name))
            case ast.Import():
                yield from (p for alias in node.names for p in alias.name.split(".") if private(p))


def test_no_private_name_of_torch_is_used():
    home = HOUSES["advreg"][0]
    ours = set(chain(*(named(parsed(path)) for path in home.rglob("*.py")))) | OWN
    found = {
        f"{path.relative_to(home)}: {name}"
        for path in home.rglob("*.py")
        for name in foreign(parsed(path))
        if name not in ours
    }
    assert found == set()


def test_a_private_name_would_be_found():
    text = "from torch.nn import _BatchNorm\nx._version\ngetattr(m, '_buffers')\nimport torch._C"
    assert set(foreign(ast.parse(text))) == {"_BatchNorm", "_version", "_buffers", "_C"}


# Documentation


@pytest.mark.parametrize(("room", "name"), NAMES)
def test_every_public_name_is_documented(room, name):
    thing = getattr(importlib.import_module(f"advreg.{room}"), name)
    text = inspect.getdoc(thing) if inspect.isfunction(thing) or inspect.isclass(thing) else None
    if text is None or (not inspect.isclass(thing) and not inspect.isfunction(thing)):
        text = explained(room, name)
    assert text, f"{name} has no docstring"
    assert not text.startswith("What"), "say what it is, not that it is what"
    if inspect.isfunction(thing):
        assert (">>>" in text) != (name in NO_EXAMPLE.get(room, ())), "an example, or a stale exception"
        assert ("Source:" in text) != (name in NO_SOURCE.get(room, ())), "a source, or a stale exception"


def explained(room, name):
    """The text below a variable, where it is made."""
    for path in [*HOUSES["advreg"][0].rglob(f"{room}/*.py"), *HOUSES["advreg"][0].glob("_core/*.py")]:
        body = parsed(path).body
        for node, after in pairwise(body):
            if name in named(node) and isinstance(after, ast.Expr):
                return ast.literal_eval(after.value)
    return None


def test_exceptions_are_names_that_there_are():
    for table in (NO_EXAMPLE, NO_SOURCE):
        assert {(room, name) for room, names in table.items() for name in names} <= set(NAMES)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_its_page_in_the_reference(room):
    page = ROOT / "docs" / "api" / f"{room}.md"
    assert page.exists()
    assert re.search(rf"automodule:: advreg\.{room}$", page.read_text(), re.MULTILINE)
    index = (ROOT / "docs" / "api" / "index.md", ROOT / "docs" / "index.md")
    assert any(re.search(rf"\b{room}\b", text.read_text()) for text in index if text.exists())


PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS = sorted(
    path
    for folder in ("tests", "examples", "benchmarks", "src")
    for path in (ROOT / folder).rglob("*.py")
    if "results" not in path.parts
)


def programs_of(path):
    """The Python of a page or a file, and of the examples in its docstrings."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^\s*(?:>>>|\.\.\.) ?((?:from|import) advreg.*)$", text, re.MULTILINE)
    return [text, "\n".join(shown)]


@pytest.mark.parametrize("path", [*PAGES, *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_taken_from_where_they_are_documented(path):
    reaching = path.is_relative_to(ROOT / "tests") or path.is_relative_to(ROOT / "src")
    at = {name: room for room, name in NAMES}
    for program in programs_of(path):
        own = path.is_relative_to(ROOT / "src") and program == path.read_text()
        if own or "advreg" not in program:
            continue  # imports between rooms have a test of their own
        for module, names in imports(ast.parse(program)):
            if module.split(".")[0] != "advreg":
                continue
            private = any(part.startswith("_") for part in module.split(".")[1:])
            assert reaching or not private, f"{module} is private"
            for name in names:
                if module == "advreg":
                    assert name in advreg.__all__ or name.startswith("_"), f"advreg has no {name}"
                elif private:
                    assert name not in at, f"{name} is documented in advreg.{at[name]}"
                else:
                    assert name not in advreg.__all__, f"write from advreg import {name}"
                    assert at.get(name) == module.removeprefix("advreg."), f"{module} has no {name}"


@pytest.mark.parametrize(
    "path", [*PAGES, *sorted((ROOT / "src").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_a_text_mentions_is_there(path):
    for mention in re.findall(r"(?<![\w/.])advreg(?:\.[A-Za-z_]\w*)+(?![\w/])", path.read_text()):
        if not mention.endswith((".py", ".md")):
            assert exists(mention), mention


def exists(mention):
    found, parts = advreg, mention.split(".")[1:]
    for number, part in enumerate(parts):
        try:
            found = getattr(found, part)
        except AttributeError:
            fields = getattr(found, "__dataclass_fields__", {})
            if part in fields:
                return True
            try:
                found = importlib.import_module(".".join(["advreg", *parts[: number + 1]]))
            except ImportError:
                return False
    return True


# Tests


def test_tests_mirror_the_rooms():
    home, tests = HOUSES["advreg"][0], ROOT / "tests"
    for path in tests.rglob("test_*.py"):
        folder, name = path.parent.relative_to(tests), path.stem.removeprefix("test_")
        if folder.parts[:1] in (("contracts",), ("lumbar_disk",)):
            continue
        names = [home / folder / f"{name}.py", home / folder / f"_{name}.py"]
        assert any(source.exists() for source in names), f"{path.relative_to(tests)} is about no file"
