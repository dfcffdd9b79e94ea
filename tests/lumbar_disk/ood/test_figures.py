import re

from matplotlib.figure import Figure

from lumbar_disk.ood import measure
from lumbar_disk.ood._figures import (
    dice_figure,
    error_figure,
    example_figure,
    example_text,
    perturbation_figure,
)
from lumbar_disk.ood._recipe import MODELS


def test_what_no_adversary_was_there_for_is_marked_in_the_legend(made_up):
    measured = measure(
        {"P10_std_rec": made_up.small("P10_std_rec")}, ["lung_ct"], made_up.within, radius=20.0, resamples=9
    )
    figure = error_figure(measured)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[1] == "OOD, no adversary: AUROC 1.00 (clean OOD only)"
    assert re.fullmatch(r"OOD, unaware adversary: AUROC 0\.\d\d", texts[2])
    assert figure.axes[1].get_title().endswith("(missing)")


def test_figures_show_what_is_there_wide_and_tall(made_up):
    shown = {name: made_up.examples(name) for name in MODELS}
    for tall in (False, True):
        figure = example_figure(shown["P10_std"], tall=tall)
        assert isinstance(figure, Figure)
        titles = [axes.get_title() for axes in figure.axes]
        assert len(titles) == 8
        assert sum("not attacked" in title for title in titles) == 2
        figure = perturbation_figure(shown, tall=tall)
        assert len(figure.axes) == 2 * 3 * 4
        measured = measure(
            {"P10_std": made_up.small("P10_std")}, ["lung_ct"], made_up.within, radius=20.0, resamples=9
        )
        panels = dice_figure(measured, tall=tall).axes
        assert [panel.get_xlim() for panel in panels] == [(-0.01, 1.01)] * 2
    assert "mask of the image attacked on the mask 1.00." in example_text(shown["P10_std"])
    del shown["P10_std_rec"]
    assert len(perturbation_figure(shown).axes) == 3 * 4
