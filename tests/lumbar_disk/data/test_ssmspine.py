import re
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from advreg import contour_dice
from lumbar_disk.data import LEVELS, Options, build, crop, landmarks, phantom, read_ssmspine
from lumbar_disk.data import _ssmspine as ssmspine

SCAN = phantom(1, 0)
IMAGE = SCAN.image / SCAN.image.max()
DISCS = np.stack([landmarks(SCAN.outlines[level]) for level in reversed(LEVELS)])  # from top to bottom


def saved(path, **changes):
    """A file as the data set's page describes it; entries that are None are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        "img": IMAGE,
        "img_corrected": IMAGE,
        "label": np.zeros((1, *IMAGE.shape), np.uint8),
        "shape": torch.zeros(1696, 2),
        "disk": DISCS,
        "disk_mask": np.zeros((5, 4, 4), bool),
    } | changes
    torch.save({name: entry for name, entry in entries.items() if entry is not None}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "image", "discs"),
    [
        ("arrays", IMAGE, DISCS),
        ("float arrays", IMAGE.astype(np.float64), DISCS.astype(np.float32)),
        ("tensors", torch.tensor(IMAGE)[None], torch.tensor(DISCS)),
        ("parameters", torch.tensor(IMAGE, requires_grad=True), torch.tensor(DISCS, requires_grad=True)),
        ("bytes", np.round(IMAGE * 255).astype(np.uint8), DISCS),
        ("another order", IMAGE, DISCS[[3, 0, 4, 1, 2]]),
        ("a list", IMAGE, DISCS.tolist()),
    ],
)
def test_the_image_and_the_points_are_taken_as_they_are(tmp_path, kind, image, discs):
    one = read_ssmspine(saved(tmp_path / "7.pt", img=image, disk=discs, count=np.int64(3)))
    assert (one.patient, list(one.outlines), dict(one.refused)) == ("7", list(LEVELS), {})
    assert one.image.dtype == np.float32
    np.testing.assert_allclose(
        one.image, IMAGE * (255 if kind == "bytes" else 1), atol=0.51 * (kind == "bytes")
    )
    for level, points in zip(reversed(LEVELS), DISCS, strict=True):
        np.testing.assert_allclose(one.outlines[level], points, atol=1e-4)
        made, own = crop(one, level), crop(SCAN, level)
        np.testing.assert_allclose(made.contour, own.contour, atol=0.05)
        assert contour_dice(*(torch.tensor(a.contour)[None] for a in (made, own)), size=(128, 128)) > 0.999


def test_landmarks_are_not_placed_anew(tmp_path):
    moved = np.roll(DISCS, 4, axis=1)  # all corners four points further, as nobody's rule puts them
    one = read_ssmspine(saved(tmp_path / "7.pt", disk=moved))
    np.testing.assert_array_equal(one.outlines["L1/L2"], moved[0])
    disc = crop(one, "L1/L2")
    assert np.argmin(np.linalg.norm(disc.contour - crop(SCAN, "L1/L2").contour[0], axis=1)) == 4


def test_files_that_numpy_1_wrote_are_read(tmp_path):
    path, old = saved(tmp_path / "7.pt"), tmp_path / "old.pt"
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(old, "w") as renamed:
        for name in file.namelist():
            content = file.read(name)
            swapped = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            renamed.writestr(name, swapped if name.endswith("data.pkl") else content)
    np.testing.assert_array_equal(read_ssmspine(old).outlines["L1/L2"], DISCS[0])


def crossing(points):
    """The bottom arc runs through the disc and back."""
    wrong = points.copy()
    wrong[1, 60:70, 1] -= 60
    return wrong


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda points: points[..., ::-1], "do not run as four arcs of 44.*Are x and y exchanged"),
        (lambda points: points * [-1, 1] + [300, 0], "do not run as four arcs.*is the image mirrored"),
        (lambda points: points * np.nan, "points are not finite"),
        (lambda points: points + np.array([400, 0]), "its outline reaches from x"),
        (crossing, "crosses or touches itself"),
    ],
)
def test_discs_whose_points_cannot_be_landmarks_are_refused_with_the_reason(tmp_path, change, reason):
    one = saved(tmp_path / "data" / "train" / "7.pt", disk=change(DISCS))
    saved(tmp_path / "data" / "train" / "8.pt")
    saved(tmp_path / "data" / "test" / "9.pt")
    data = build(Options("ssmspine", tmp_path / "data", size=32))
    refused = data.manifest["refused"]
    assert {one["source"] for one in refused} == {one.relative_to(tmp_path / "data").as_posix()}
    assert len(refused) == (1 if change is crossing else 5)
    assert len(data.train) == 10 - len(refused)
    assert all(re.search(reason, one["reason"]) for one in refused)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"img": None},
            r"7.pt: expected a dictionary with `img`.*got \['disk', 'disk_mask', 'img_corrected'",
        ),
        ({"disk": None}, r"7.pt: expected a dictionary with .*`disk`, an array \(5, 176, 2\)"),
        (
            {"disk": DISCS[:4]},
            r"7.pt: expected `disk` as numbers of shape \(5, 176, 2\).*got .*\(4, 176, 2\)",
        ),
        ({"disk": "points"}, r"7.pt: expected `disk` as numbers"),
        ({"img": np.zeros((3, 8, 9))}, r"7.pt: expected a grey image \(H, W\).*\(3, 8, 9\)"),
        ({"img": IMAGE * np.nan}, r"7.pt: expected a grey image \(H, W\) of finite numbers"),
        ({"who": PurePosixPath("x")}, r"7.pt holds objects that are not loaded.*: pathlib.*save its arrays"),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_ssmspine(saved(tmp_path / "7.pt", **changes))


@pytest.mark.parametrize("content", [b"", b"something else", "cut"])
def test_what_torch_did_not_save_is_named(tmp_path, content):
    path = saved(tmp_path / "7.pt")
    path.write_bytes(path.read_bytes()[:-500] if content == "cut" else content)
    with pytest.raises(
        ValueError, match=r"7.pt cannot be read as a file of torch.save \(.*Download it again"
    ):
        read_ssmspine(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"7.pt: expected a dictionary.*got list"):
        read_ssmspine(path)


def test_loading_runs_nothing_that_a_file_contains(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    with pytest.raises(ValueError, match=r"objects that are not loaded.*open"):
        read_ssmspine(saved(tmp_path / "7.pt", trap=Trap()))
    assert not (tmp_path / "sprung").exists()


def test_the_folders_are_the_split_and_files_without_a_patient_are_counted(tmp_path, caplog):
    for name in ("Train/1.pt", "Train/2.pt", "test/1.pt", "test/._1.pt", ".trash/1.pt"):
        saved(tmp_path / name)
    data = build(Options("ssmspine", tmp_path, size=32))
    assert set(data.train.patients) == {"train/1", "train/2"}
    assert set(data.test.patients) == {"test/1"}
    assert data.manifest["split"] == "by the folders train and test"
    assert data.manifest["options"]["test_patients"] is None
    assert set(data.manifest["sources"]) == {"Train/1.pt", "Train/2.pt", "test/1.pt"}
    assert "3 of 3 images lie in train or test itself" in caplog.text
    assert "intervals over patients are too narrow" in caplog.text
    assert data.train.pixel_mm.isnan().all()


def test_folders_within_are_patients(tmp_path, caplog):
    for name in ("train/p1/1.pt", "train/p1/2.pt", "train/p2/deep/1.pt", "test/p3/1.pt"):
        saved(tmp_path / name)
    data = build(Options("ssmspine", tmp_path, size=32))
    assert sorted(set(data.train.patients)) == ["p1", "p2"]
    assert set(data.test.patients) == {"p3"}
    assert len(data.train) == 15
    assert not caplog.text
    saved(tmp_path / "test" / "p2" / "1.pt")
    with pytest.raises(
        ValueError, match=r"patients p2 have folders in both train and test.*keep each patient"
    ):
        build(Options("ssmspine", tmp_path, size=32))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "got 0 in train, 0 in test, 0 elsewhere. Unpack"),
        (
            ["1.pt", "2.pt"],
            "got 0 in train, 0 in test, 2 elsewhere, such as .*1.pt. Unpack SSMSpine_Train.zip",
        ),
        (["train/1.pt"], "got 1 in train, 0 in test, 0 elsewhere"),
        (["train/1.pt", "test/1.pt", "more/1.pt"], "1 elsewhere, such as .*more/1.pt"),
    ],
)
def test_without_both_folders_no_split_is_drawn(tmp_path, names, told):
    for name in names:
        saved(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=told):
        ssmspine.files(tmp_path)
