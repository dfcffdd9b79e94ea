import numpy as np
import pytest
from skimage.draw import polygon2mask
from torch.nn import functional as F

from lumbar_disk.data import LEVELS, crops, phantom, phantoms
from lumbar_disk.data import _phantom as painting
from lumbar_disk.data._anatomy import Plate
from lumbar_disk.data._outlines import signed_area


@pytest.fixture(scope="module")
def few():
    return phantoms(6, seed=5)


def test_a_patient_depends_on_seed_and_index_alone(few):
    again = phantom(5, 4)
    np.testing.assert_array_equal(again.image, few[4].image)
    for level in LEVELS:
        np.testing.assert_array_equal(again.outlines[level], few[4].outlines[level])
    assert not np.array_equal(few[0].image, few[1].image)
    assert not np.array_equal(phantom(6, 4).image, again.image)


def test_five_discs_in_order_of_plausible_size(few):
    for one in few:
        assert tuple(one.outlines) == LEVELS
        heights = [outline[:, 1].mean() for outline in one.outlines.values()]
        assert heights == sorted(heights, reverse=True)  # L5/S1 lowest
        for outline in one.outlines.values():
            assert outline.min() > 0
            assert np.all(outline.max(axis=0) < np.array(one.image.shape[::-1]) - 1)
            assert 90 < abs(signed_area(outline)) * one.pixel_mm**2 < 700  # mm²
            assert 26 < np.ptp(outline @ principal(outline)) * one.pixel_mm < 46  # mm, front to back


def principal(outline):
    return np.linalg.eigh(np.cov(outline.T))[1][:, 1]


@pytest.mark.parametrize("waist", [0.0, 0.1])
def test_the_outline_is_where_the_edge_function_is_zero(waist):
    plate = Plate(
        np.array([50.0, 60.0]), 0.4, 36.0, 11.0, wedge=-1.5, dome=1.2, bend=0.4, waist=waist, back=2.0
    )
    level = plate.level(*plate.outline().T)
    assert np.abs(level).max() < (1e-9 if waist == 0 else 0.02)
    assert plate.level(*plate.centre) < -0.9


def test_a_painted_disc_covers_the_area_of_its_outline():
    plate = Plate(np.array([80.0, 120.0]), -0.3, 36.0, 9.0, wedge=-1.0, dome=1.0, bend=0.3)
    window, _, edge = painting._edge(plate, painting.SHAPE)
    picture = np.zeros(painting.SHAPE)
    painting.paint(picture[window], 1.0, painting.step(-edge, painting.PIXEL_MM))
    area = abs(signed_area(plate.outline()))
    assert picture.sum() * painting.PIXEL_MM**2 == pytest.approx(area, rel=3e-3)
    inside = polygon2mask(painting.SHAPE, plate.outline()[:, ::-1] / painting.PIXEL_MM)
    np.testing.assert_array_equal(picture > 0.5, inside)


def test_images_are_raw_magnitudes_with_bright_canal_behind_dark_annulus(few):
    for one in few:
        assert one.image.dtype == np.float32
        assert one.image.min() >= 0
        assert one.image.max() > 100
    discs = crops(few, size=64)
    edge = discs.masks * (1 - torch_erode(discs.masks))
    dark = (discs.images * edge).sum() / edge.sum()
    behind = discs.images[..., 20:44, 54:].mean()
    assert dark < 0.3 < behind


def torch_erode(masks):
    return -F.max_pool2d(-masks, 5, stride=1, padding=2)
