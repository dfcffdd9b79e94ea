from itertools import product

import numpy as np

from lumbar_disk.report import PAPER_RADII, cells, curve_figure, output_figure, published, read_results
from lumbar_disk.report._figures import disc


def means(table):
    point = table.where(attack="contour", head="contour", metric="point_error")
    return [point.where(radius=radius).values().mean() for radius in PAPER_RADII]


def test_figures_show_what_is_there_and_name_what_is_missing(tmp_path, make_study):
    folder = make_study(tmp_path, ["P10_std"])
    read = read_results(folder)
    found = cells(read)
    for tall in (False, True):
        figure = curve_figure(5, found, tall=tall)
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[:3] == ["P3_adv_rs (missing)", "P10_adv_rs (missing)", "P10_std"]
        error, _, mask = figure.axes
        ours, printed = error.lines[4:6]
        scaled = [2 * value for value in means(read.tables["P10_std"])]
        np.testing.assert_allclose(ours.get_ydata(), scaled)
        np.testing.assert_allclose(
            printed.get_ydata(), [published("point_error", "P10_std", r) for r in PAPER_RADII]
        )
        assert len(mask.lines[0].get_xdata()) == 0
        assert ours.get_color() == printed.get_color()
    for number, tall in product((8, 9), (False, True)):
        figure = output_figure(number, read.examples, tall=tall)
        titles = " ".join(axes.get_title() for axes in figure.axes)
        assert titles.count("missing") == 2 * len(PAPER_RADII)
        assert titles.count("Dice") == len(PAPER_RADII)
    assert disc(read.examples) == "patient p1, L3/L4"
