from dataclasses import astuple

import numpy as np
import pytest

from advreg.evaluation import Table
from lumbar_disk.ood import measure


def test_dice_between_answers_are_means_with_intervals_over_patients(made_up, tables):
    """Never medians: their percentile intervals from few patients are wrong (Andre et al., BRIDGE 2025)."""
    rng, patients = np.random.default_rng(1), 6
    values = np.repeat(rng.uniform(0, 1, patients), 5)  # the discs of a patient are alike
    model = made_up.small(
        "P10_std", lambda head, metric, adversary, old: values if (head, metric) == ("mask", "dice") else old
    )
    mask = (
        measure({"P10_std": model}, ["lung_ct"], made_up.within, radius=20.0)
        .matchings["P10_std", "lung_ct", "seg"]
        .mask
    )
    assert mask.mean == pytest.approx(values.mean())
    error = values[::5].std() / np.sqrt(patients)  # of the mean of six patients, whatever discs they have
    assert (mask.high - mask.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.1)


def test_what_counts_as_matched_is_what_was_attacked(made_up, tables):
    pairs = measure(tables, ["lung_ct"], made_up.within, radius=20.0, resamples=9).matchings
    near = tables["P10_std"].where(attack="lung_ct/reg", metric="point_error").values() <= 0.5
    assert pairs["P10_std", "lung_ct", "reg"].matched == near.mean() > 0.5
    assert pairs["P10_std", "lung_ct", "none"].matched == 0
    pair = tables["P10_std_rec"].where(attack="lung_ct/aware:reconstruction")
    both = (pair.where(metric="point_error").values() <= 0.5) & (
        pair.where(head="mask", metric="dice").values() >= 0.98
    )
    assert pairs["P10_std_rec", "lung_ct", "aware:reconstruction"].matched == both.mean()


def test_the_limit_is_how_near_images_are_to_discs_and_the_same_for_every_model(tables, made_up):
    found = measure(tables, ["lung_ct"], made_up.within, radius=22.0, resamples=9).limits["lung_ct"]
    far = tables["P10_std"].where(attack="lung_ct/none", head="nearest disc").values()
    assert astuple(found) == (len(far), np.median(far), far.min(), (far <= 22).mean())
    assert 0 < found.inside < 1
    without = {
        name: Table(tuple(row for row in table if row.head != "nearest disc"))
        for name, table in tables.items()
    }
    assert not measure(without, ["lung_ct"], made_up.within, radius=22.0, resamples=9).limits
