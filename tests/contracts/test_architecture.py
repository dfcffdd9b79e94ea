"""The shape of the code: imports run one way, files stay short, every public name is documented."""

import ast
import inspect
import pathlib

import pytest

import advreg

ROOT = pathlib.Path(advreg.__file__).parent
# Each module may import only from those before it.
ORDER = [
    "files",
    "randomness",
    "types",
    "trees",
    "looking",
    "rows",
    "projections",
    "norms",
    "threats",
    "rules",
    "adaptive",
    "ascent",
    "contours",
    "metrics",
    "pixels",
    "objectives",
    "surrogates",
    "models",
    "packing",
    "writes",
    "tracing",
    "cutting",
    "precision",
    "checkpointing",
    "pruning",
    "batching",
    "tracks",
    "search",
    "attacks",
    "matching",
    "starts",
    "tasks",
    "auto",
    "fronts",
    "probing",
    "gradient_free",
    "perturbations",
    "training",
    "resampling",
    "tables",
    "processes",
    "journal",
    "measuring",
    "evaluation",
    "flow",
    "diagnosis",
    "examination",
    "model_checks",
    "checks",
    "diagnostics",
    "features",
    "distances",
    "disagreement",
    "detection",
    "ood",
    "plotting",
    "testing",
]
DOCS = pathlib.Path(__file__).parents[1] / "docs"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("advreg."):
            yield node.module.removeprefix("advreg.")
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("advreg"))


def test_every_module_has_its_place_in_the_order():
    assert {path.stem for path in ROOT.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_one_way(module):
    assert set(imports(ROOT / f"{module}.py")) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 320


def test_the_public_surface_is_small_and_sorted():
    assert len(advreg.__all__) <= 40
    assert advreg.__all__ == sorted(advreg.__all__, key=lambda name: (not name[0].isupper(), name))


@pytest.mark.parametrize("name", advreg.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(advreg, name)
    assert any(name in page.read_text() for page in (DOCS / "api").glob("*.md")), f"{name} is on no API page"
    if inspect.isfunction(thing) or inspect.isclass(thing):
        text = inspect.getdoc(thing)
        assert text
        documented = inspect.isfunction(thing)
        if documented:
            assert ">>>" in text or name in ("J_IND_seg", "J_OOD_reg", "dice", "point_error"), "no example"
            assert "Source:" in text or name in ("frozen", "on", "weighted", "negate"), "no source"


def test_the_library_never_imports_the_study():
    for path in ROOT.glob("*.py"):
        assert "lumbar_disk" not in path.read_text()
