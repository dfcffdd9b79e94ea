"""Volumes whose voxels lie beside them, and those that reach further."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name

from lumbar_disk.data import Options, _spider, build, read_spider_volume
from lumbar_disk.data._metaimage import data_files

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def volume(path, where):
    """A volume whose voxels are said to be somewhere."""
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{header}ElementDataFile = {where}\n".encode() + VALUES.tobytes() * (where == "LOCAL"))
    return path


@pytest.mark.parametrize(
    "where",
    [
        "{outside}/secret.raw",
        "../secret.raw",
        "deep/../../secret.raw",
        "..\\secret.raw",
        "C:\\secret.raw",
        "LIST\nslice.raw\n../secret.raw",
        "LIST 2\n{outside}/secret.raw",
        "../secret%d.raw 1 2 1",
        "LIST\n" + "slice.raw\n" * 10_000 + "../secret.raw",
    ],
)
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_a_volume_that_reaches_outside_its_folder_is_refused_by_name(tmp_path, where, suffix):
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    path = volume(tmp_path / "images" / f"1_t2{suffix}", where.format(outside=tmp_path))
    with pytest.raises(
        ValueError, match=r"1_t2.mh[ad]: its header takes the voxels from '.*secret.*outside its"
    ):
        _spider._volume(path)


@pytest.mark.parametrize("line", ["Comment = ElementDataFile = LOCAL", "Comment = " + "x" * 100_000])
def test_a_header_that_hides_where_the_voxels_are_is_refused(tmp_path, line):
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    path = volume(tmp_path / "images" / "1_t2.mha", "../secret.raw")
    path.write_bytes(f"{line}\n".encode() + path.read_bytes())
    with pytest.raises(
        ValueError, match=r"1_t2.mha: (its header takes the voxels from|.*name no ElementDataFile)"
    ):
        _spider._volume(path)


def test_voxels_inside_the_folder_are_read_and_known(tmp_path):
    raw = tmp_path / "voxels.raw"
    raw.write_bytes(VALUES.tobytes())
    parts = [tmp_path / f"slice{number}.raw" for number in range(2)]
    for part, values in zip(parts, VALUES, strict=True):
        part.write_bytes(values.tobytes())
    cases = {
        "LOCAL": (),
        "voxels.raw": (raw,),
        "LIST 2\nslice0.raw\nslice1.raw": tuple(parts),
        "slice%d.raw 0 1 1": tuple(parts),
    }
    for where, files in cases.items():
        path = volume(tmp_path / "1_t2.mha", where)
        assert data_files(path) == files
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VALUES)
    assert data_files(tmp_path / "1_t2.nii.gz") == ()


def test_a_header_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "1_t2.mha").mkdir()
    with pytest.raises(
        ValueError, match=r"1_t2.mha is damaged, or is not what it should be: .*Download it again"
    ):
        data_files(tmp_path / "1_t2.mha")
    (tmp_path / "2_t2.mha").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2_t2.mha: cannot be read as an image; download it again"):
        read_spider_volume(tmp_path / "2_t2.mha", tmp_path / "2_t2.mha")


def test_a_listing_knows_the_files_that_hold_the_voxels(tmp_path):
    for folder in ("images", "masks"):
        volume(tmp_path / folder / "1_t2_SPACE.mha", "voxels.raw")
        (tmp_path / folder / "voxels.raw").write_bytes(VALUES.tobytes())
    (item,) = _spider.find(tmp_path, Options("spider", tmp_path)).items
    assert [path.relative_to(tmp_path).as_posix() for path in item.files] == [
        "images/1_t2_SPACE.mha",
        "masks/1_t2_SPACE.mha",
        "images/voxels.raw",
        "masks/voxels.raw",
    ]
    with pytest.raises(ValueError, match=r"masks/1_t2_SPACE.mha: no lumbar disc"):
        build(Options("spider", tmp_path, size=32, test_patients=1))
