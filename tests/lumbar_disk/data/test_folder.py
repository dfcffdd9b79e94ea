import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from lumbar_disk.data import Options, build, crop, landmarks, read_annotated

ANGLE = np.arange(200) * (np.pi / 100)
OUTLINE = np.stack([80 + 30 * np.cos(ANGLE), 60 + 9 * np.sin(ANGLE)], axis=1)
PICTURE = 40 + 160 * polygon2mask((120, 160), OUTLINE[:, ::-1])
BYTES = PICTURE.astype(np.uint8)


def csv_of(outlines):
    rows = [f"{x},{y},{level}" for level, points in outlines.items() for x, y in points]
    return "\n".join(["x,y,level", *rows])


def pair(root, name="anna_1", pixels=BYTES, ending=".png", contours=None):
    for folder in ("images", "contours"):
        (root / folder).mkdir(exist_ok=True)
    image = root / "images" / f"{name}{ending}"
    if ending == ".npy":
        np.save(image, pixels)
    elif ending == ".npz":
        np.savez(image, image=pixels, pixel_mm=0.7)
    else:
        Image.fromarray(pixels).save(image)
    path = root / "contours" / f"{name}.csv"
    path.write_text(contours or csv_of({"L4/L5": OUTLINE}))
    return image, path


@pytest.mark.parametrize(
    ("ending", "kind"),
    [(".png", np.uint8), (".png", np.uint16), (".tif", np.float32), (".bmp", np.uint8), (".npy", np.int16)],
)
def test_every_format_and_depth_gives_the_same_crop(tmp_path, ending, kind):
    one = read_annotated(*pair(tmp_path, pixels=PICTURE.astype(kind), ending=ending), pixel_mm=0.5)
    assert one.patient == "anna"
    assert one.image.dtype == np.float32
    np.testing.assert_array_equal(one.image, PICTURE)
    disc = crop(one, "L4/L5", size=64, upright=False)
    np.testing.assert_allclose(disc.contour, (landmarks(OUTLINE) - [80, 60]) * 64 / 90 + 31.5, atol=0.05)
    assert disc.pixel_mm == pytest.approx(0.5 * 90 / 64, rel=1e-3)


def test_three_equal_channels_are_grey_and_three_unequal_ones_are_refused(tmp_path):
    colours = np.repeat(PICTURE.astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_annotated(*pair(tmp_path, pixels=colours)).image, PICTURE)
    colours[..., 1] //= 2
    with pytest.raises(ValueError, match=r"anna_1.png: expected a grey image .*\(120, 160, 3\).*Convert"):
        read_annotated(*pair(tmp_path, pixels=colours))


def test_contours_come_by_level_from_csv_and_npz_and_without_level_alone(tmp_path):
    image, path = pair(tmp_path, contours=csv_of({"L4/L5": OUTLINE, "own": OUTLINE + 5}))
    from_csv = read_annotated(image, path).outlines
    archive = path.with_suffix(".npz")
    np.savez(archive, **{"L4/L5": OUTLINE, "own": OUTLINE + 5})
    from_npz = read_annotated(image, archive).outlines
    assert list(from_csv) == list(from_npz) == ["L4/L5", "own"]
    for level in from_csv:
        np.testing.assert_array_equal(from_csv[level], from_npz[level])
    path.write_text("x;y\n" + "\n".join(f"{x};{y}" for x, y in OUTLINE))
    assert list(read_annotated(image, path).outlines) == ["disc"]


def test_pixels_have_the_size_of_the_table_else_of_the_archive_else_none(tmp_path):
    image, path = pair(tmp_path, ending=".npz")
    assert read_annotated(image, path).pixel_mm == 0.7
    assert read_annotated(image, path, pixel_mm=0.5).pixel_mm == 0.5
    archive = tmp_path / "c.npz"
    np.savez(archive, disc=OUTLINE, pixel_mm=0.6)
    assert read_annotated(image, archive).pixel_mm == 0.6
    assert list(read_annotated(image, archive).outlines) == ["disc"]
    assert np.isnan(read_annotated(*pair(tmp_path, ending=".npy")).pixel_mm)


def test_a_folder_becomes_a_split_data_set(tmp_path):
    for name in ("anna_1", "anna_2", "ben"):
        pair(tmp_path, name)
    (tmp_path / "spacing.csv").write_text("name,pixel_mm\nben,0.5\n")
    data = build(Options("folder", tmp_path, size=64, test_patients=1))
    assert sorted([*data.train.patients, *data.test.patients]) == ["anna", "anna", "ben"]
    known = {disc["source"]: disc["pixel_mm"] for disc in data.manifest["discs"]}
    assert known["images/ben.png"] == pytest.approx(0.5 * 90 / 64, rel=1e-3)
    assert known["images/anna_1.png"] is None
    assert "spacing.csv" in data.manifest["sources"]


def missing_contours(root):
    pair(root)[1].unlink()


def twice(root):
    pair(root)
    pair(root, ending=".npy")


def not_an_image(root):
    pair(root)[0].write_text("hello")


def several_images(root):
    image, _ = pair(root, ending=".tif")
    pages = [Image.fromarray(PICTURE.astype(np.uint8))] * 2
    pages[0].save(image, save_all=True, append_images=pages[1:])


def not_an_archive(root):
    image, _ = pair(root, ending=".npz")
    image.write_bytes(image.read_bytes()[:-200])


def without_an_image(root):
    np.savez(pair(root, ending=".npz")[0], picture=PICTURE)


def words(root):
    pair(root, contours="x,y\n1,2\nleft,3\n")


def no_points(root):
    pair(root, contours="x,y\n")


def three_columns(root):
    path = pair(root)[1]
    path.unlink()
    np.savez(path.with_suffix(".npz"), disc=np.zeros((9, 3)))


def unknown_name(root):
    pair(root)
    (root / "spacing.csv").write_text("name,pixel_mm\nanna_1,0.5\nanna_2.png,0.5\n")


def negative(root):
    pair(root)
    (root / "spacing.csv").write_text("name,pixel_mm\nanna_1,-0.5\n")


def exchanged(root):
    pair(root, contours=csv_of({"disc": OUTLINE[:, ::-1] + [0, 60]}))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: None, FileNotFoundError, "no images in .*images. Expected"),
        (missing_contours, FileNotFoundError, "no partner .*images/anna_1.png.*contours/NAME.csv"),
        (twice, ValueError, "images/anna_1.png and anna_1.npy have the same name"),
        (not_an_image, ValueError, "images/anna_1.png: cannot be read as an image"),
        (several_images, ValueError, "images/anna_1.tif.*it holds 2 images; expected one"),
        (not_an_archive, ValueError, "images/anna_1.npz: cannot be read as a numpy archive"),
        (without_an_image, ValueError, r"images/anna_1.npz: expected an array `image`; got \['picture'\]"),
        (words, ValueError, "contours/anna_1.csv: x and y are numbers.*'left'"),
        (no_points, ValueError, "contours/anna_1.csv has no points"),
        (three_columns, ValueError, r"contours/anna_1.npz, disc: expected .*\(n, 2\).*\(9, 3\)"),
        (unknown_name, ValueError, "spacing.csv names anna_2.png, and images has no such file"),
        (negative, ValueError, "spacing.csv, anna_1: the side of a pixel is a positive number.*-0.5"),
        (
            exchanged,
            ValueError,
            r"every disc was refused:\n- images/anna_1.png, disc: .* its outline reaches",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path, make, error, message):
    make(tmp_path)
    with pytest.raises(error, match=message):
        build(Options("folder", tmp_path, size=64, test_patients=1))


def test_hidden_files_are_skipped_and_one_bad_image_leaves_the_others(tmp_path, caplog):
    for name in ("anna_1", "ben_1", "carl_1"):
        for path in pair(tmp_path, name=name):
            path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    (tmp_path / "images" / "ben_1.png").write_text("no image")
    data = build(Options("folder", tmp_path, size=64, test_patients=1))
    assert {*data.train.patients, *data.test.patients} == {"anna", "carl"}
    (refused,) = data.manifest["refused"]
    assert (refused["source"], refused["level"]) == ("images/ben_1.png", None)
    assert "images/ben_1.png refused: " in caplog.text
