"""The registry: what each source asks for, and what a new one takes."""

from pathlib import Path

import pytest

from lumbar_disk.data import SOURCES, Item, Listing, Options, Source, build, cropped, phantom
from lumbar_disk.data._sources import deciding, listing


def test_each_source_is_registered_by_its_name():
    assert list(SOURCES) == ["spider", "folder", "mat", "ssmspine", "phantom"]
    assert all(source.name == name for name, source in SOURCES.items())


@pytest.mark.parametrize("name", ["spider", "folder", "mat", "ssmspine"])
def test_sources_with_files_need_a_root_and_say_what_it_holds(name):
    with pytest.raises(ValueError, match=f"--data {name} needs a root: the folder that holds .*; got none"):
        listing(Options(name))


def test_an_unknown_source_is_refused_by_name():
    with pytest.raises(ValueError, match=r"data must be one of spider, .*, ssmspine, phantom; got 'dicom'"):
        build(Options("dicom"))


def test_only_the_options_that_a_source_reads_decide_its_result():
    chosen = Options("spider", Path("x"), series=("t1", "t2"), slices=3, overview=Path("far/away/table.csv"))
    assert deciding(chosen) == {
        "data": "spider",
        "series": ["t1", "t2"],
        "slices": 3,
        "overview": "table.csv",  # of where it lies nothing; its content has a checksum
        "upright": True,
        "size": 128,
        "test_patients": 6,
        "seed": 0,
    }
    assert deciding(Options("phantom", patients=3))["patients"] == 3
    assert not {"series", "slices", "overview", "patients"} & set(deciding(Options("mat", Path("x"))))


def test_a_new_source_is_one_entry(monkeypatch, tmp_path):
    def find(root, options):
        (root / "seen").touch()
        read = [lambda index=index: cropped(phantom(9, index), options.size) for index in range(2)]
        return Listing(tuple(Item(f"mine {index}", (), one) for index, one in enumerate(read)))

    monkeypatch.setitem(SOURCES, "mine", Source("mine", find, "a scan"))
    data = build(Options("mine", tmp_path, size=32, test_patients=1))
    assert (len(data.train), len(data.test)) == (5, 5)
    assert data.manifest["options"]["data"] == "mine"
    assert (tmp_path / "seen").exists()
