import numpy as np
import pytest
from scipy import io
from skimage.draw import polygon2mask

from lumbar_disk.data import Options, build, landmarks, read_mat
from lumbar_disk.data._mat import ARCS, mat_files

ANGLE = np.arange(200) * (np.pi / 100)
OUTLINE = np.stack([80 + 30 * np.cos(ANGLE), 60 + 9 * np.sin(ANGLE)], axis=1)
CONTOUR = (landmarks(OUTLINE) - [80, 60]) * 128 / 90 + 63.5
PARTS = dict(zip(ARCS, CONTOUR.reshape(4, 44, 2), strict=True))
CROP = polygon2mask((128, 128), CONTOUR[:, ::-1]).astype(np.uint8)


def mat(path, **changes):
    io.savemat(path, {name: value for name, value in ({"img": CROP} | PARTS | changes).items() if len(value)})
    return path


def test_a_crop_of_the_paper_is_taken_as_it_is(tmp_path):
    disc = read_mat(mat(tmp_path / "7_L4L5.mat"))
    assert (disc.patient, disc.level) == ("7", "L4L5")
    np.testing.assert_array_equal(disc.image, CROP)
    np.testing.assert_allclose(disc.contour, CONTOUR, atol=1e-5)


def test_arcs_of_another_number_direction_or_with_shared_ends_give_the_same_points(tmp_path):
    closed = np.vstack([CONTOUR, CONTOUR[:1]])
    shared = {name: closed[44 * i : 44 * i + 45] for i, name in enumerate(ARCS)}
    disc = read_mat(mat(tmp_path / "7.mat", **shared))
    np.testing.assert_allclose(disc.contour, CONTOUR, atol=0.05)
    turned = read_mat(mat(tmp_path / "7.mat", disk_bot=PARTS["disk_bot"][::-1]))
    np.testing.assert_allclose(turned.contour, CONTOUR, atol=1e-5)
    fewer = read_mat(mat(tmp_path / "7.mat", disk_up=PARTS["disk_up"][::3]))
    np.testing.assert_allclose(fewer.contour, CONTOUR, atol=0.3)
    assert disc.level == "disc"


@pytest.mark.parametrize("size", [64, 192])
def test_crops_of_another_size_keep_contour_and_picture_together(tmp_path, size):
    disc = read_mat(mat(tmp_path / "7.mat"), size=size)
    inside, shown = polygon2mask((size, size), disc.contour[:, ::-1]), disc.image > 0.5
    assert 2 * (inside & shown).sum() / (inside.sum() + shown.sum()) > 0.97
    centre = [np.average(grid, weights=disc.image) for grid in np.indices((size, size))]
    assert np.abs(np.argwhere(inside).mean(axis=0) - centre).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"disk_up": []}, r"7.mat: expected the variables img, .*without \['disk_up'\]"),
        ({"img": CROP[:100]}, "7.mat: expected a square crop as img; got 100 x 128"),
        ({"img": np.zeros((128, 128))}, "7.mat: every pixel of the crop is 0.0"),
        ({"disk_bot": PARTS["disk_bot"].T}, r"7.mat, disk_bot: expected .*\(n, 2\).*\(2, 44\)"),
        ({"disk_bot": PARTS["disk_bot"] * np.nan}, "7.mat, disk_bot: some points are not finite"),
        ({"disk_bot": PARTS["disk_up"]}, "7.mat: its contour crosses or touches itself"),
        ({name: arc + 90 for name, arc in PARTS.items()}, "7.mat: its contour .*leaves the image; x from"),
    ],
)
def test_a_wrong_crop_is_named_with_the_reason(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_mat(mat(tmp_path / "7.mat", **changes))


def test_what_is_no_mat_file_is_named(tmp_path):
    path = mat(tmp_path / "7.mat")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"7.mat cannot be read as a MATLAB file"):
        read_mat(path)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + bytes(400))
    with pytest.raises(ValueError, match=r"7.mat is of MATLAB's version 7.3.*'-v7'"):
        read_mat(path)


def test_a_folder_of_crops_becomes_a_split_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .mat files under"):
        mat_files(tmp_path)
    (tmp_path / "deep").mkdir()
    for name in ("1_a", "1_b", "deep/2_a"):
        mat(tmp_path / f"{name}.mat")
    data = build(Options("mat", tmp_path, test_patients=1))
    assert {*data.train.patients} | {*data.test.patients} == {"1", "2"}
    assert len(data.train) + len(data.test) == 3
    assert set(data.manifest["sources"]) == {"1_a.mat", "1_b.mat", "deep/2_a.mat"}


def test_hidden_files_are_skipped(tmp_path):
    for name in ("1_a", "2_a"):
        path = mat(tmp_path / f"{name}.mat")
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    (tmp_path / ".trash").mkdir()
    mat(tmp_path / ".trash" / "3_a.mat")
    assert [path.name for path in mat_files(tmp_path)] == ["1_a.mat", "2_a.mat"]
