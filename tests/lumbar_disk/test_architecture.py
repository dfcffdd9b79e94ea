"""Doors of the study: what is public is documented. Its order is held with the library's."""

import importlib
import inspect
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "api" / "lumbar_disk.md"
DOORS = ["data", "virtual", "network", "study", "report", "certified", "ood", "weights", "demo", "cli"]


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
