"""What a figure shows is what the table says."""

import math
import sys

import numpy as np
import pytest
import torch

from advreg.evaluation import Row, Table
from advreg.plotting import plot_bounds, plot_brackets, plot_curves

RADII = (0.0, 0.01, 0.03)


def results(slope, attacks=("mask", "contour"), radii=RADII):
    rng = np.random.default_rng(int(slope))
    return Table(
        Row(i, f"patient {i // 2}", radius, attack, "mask", "dice", 1 - slope * radius + 0.1 * rng.random())
        for attack in attacks
        for radius in radii
        for i in range(8)
    )


def test_curves_are_the_means_and_bands_hold_them():
    tables = {"plain": results(20), "adversarial": results(5)}
    ax = plot_curves(tables, head="mask", metric="dice", attack="mask")
    assert [line.get_label() for line in ax.lines] == list(tables)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(tables)
    assert len({line.get_color() for line in ax.lines}) == len({line.get_marker() for line in ax.lines}) == 2
    for table, line, band in zip(tables.values(), ax.lines, ax.collections, strict=True):
        means = table.where(attack="mask").means()
        np.testing.assert_array_equal(line.get_xdata(), RADII)
        np.testing.assert_array_equal(line.get_ydata(), [mean.mean for mean in means])
        corners = band.get_paths()[0].vertices
        for mean in means:
            at = corners[np.isclose(corners[:, 0], mean.radius), 1]
            assert (at.min(), at.max()) == pytest.approx((mean.low, mean.high))
            assert mean.low < mean.mean < mean.high


def test_radii_are_drawn_in_order():
    ax = plot_curves({"m": results(5, radii=(0.03, 0.0, 0.01))}, head="mask", metric="dice", attack="mask")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), RADII)


def test_each_attack_has_a_line_of_its_own_style():
    ax = plot_curves({"m": results(5), "n": results(6, ["mask"])}, head="mask", metric="dice")
    assert [line.get_label() for line in ax.lines] == [
        "m, attack: mask",
        "m, attack: contour",
        "n, attack: mask",
    ]
    styles = [line.get_linestyle() for line in ax.lines]
    assert styles[0] == styles[2] != styles[1]


def test_labels_axes_and_confidence_are_the_callers():
    first = plot_curves({"m": results(5, ["a"])}, head="mask", metric="dice", confidence=0.5)
    assert (first.get_xlabel(), first.get_ylabel()) == ("radius", "dice of mask")
    height = np.ptp(first.collections[0].get_paths()[0].vertices[:, 1])
    again = plot_curves({"m": results(5, ["a"])}, head="mask", metric="dice", ax=first, label="Dice")
    assert again is first
    assert first.get_ylabel() == "Dice"
    assert np.ptp(first.collections[1].get_paths()[0].vertices[:, 1]) > height


def test_a_figure_is_saved_without_pyplot_knowing_it(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot", reason="plots are optional")
    before = plt.get_fignums()
    one_patient = results(5, ["mask"]).where(group="patient 0")
    ax = plot_curves({"m": results(5, ["mask"]), "one": one_patient}, head="mask", metric="dice")
    ax.figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert plt.get_fignums() == before


def test_tables_without_what_is_asked_are_refused():
    with pytest.raises(
        ValueError, match=r"of head 'mask' under attack 'both'; the table 'm' is Table\(48 rows"
    ):
        plot_curves({"m": results(5)}, head="mask", metric="dice", attack="both")
    with pytest.raises(ValueError, match="radius="):
        plot_curves({"m": results(5, radii=[math.nan])}, head="mask", metric="dice")


def test_matplotlib_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .advreg\[plot\]"):
        plot_curves({"m": results(5)}, head="mask", metric="dice")


def both(found=RADII, guaranteed=RADII):
    """What attacks found and a little below it what is guaranteed."""
    table = results(5, attacks=("auto",), radii=found)
    held = [row._replace(attack="smoothing", bound="guaranteed", value=row.value - 0.2)
            for row in results(5, attacks=("auto",), radii=guaranteed)]  # fmt: skip
    return table + Table(held)


def test_the_band_lies_between_what_is_found_and_what_is_guaranteed():
    table = both()
    ax = plot_bounds(table, head="mask", metric="dice")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["between them", "found", "guaranteed"]
    corners = ax.collections[0].get_paths()[0].vertices
    for radius in RADII:
        above, below = table.where(radius=radius).means(("bound",))
        at = corners[np.isclose(corners[:, 0], radius), 1]
        assert (at.min(), at.max()) == pytest.approx((below.mean, above.mean))
    with pytest.raises(ValueError, match=r"that are guaranteed; the table is .*add what radius_curve"):
        plot_bounds(results(5), head="mask", metric="dice")
    with pytest.raises(ValueError, match=r"found has the radii \[0.0\], what is guaranteed \[0.1\]: take"):
        plot_bounds(both((0.0,), (0.1,)), head="mask", metric="dice")


def test_brackets_are_in_the_order_of_what_was_found():
    low, high = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.5, 0.2, math.inf])
    ax = plot_brackets(low, high)
    guaranteed, found, none = ax.lines
    assert guaranteed.get_xdata().tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert found.get_xdata().tolist() == pytest.approx([0.2, 0.5])
    assert list(none.get_ydata()) == [2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["guaranteed", "found", "none found"]
    with pytest.raises(ValueError, match=r"expected radii \(B,\) from below and from above"):
        plot_brackets(low, high[:2])
