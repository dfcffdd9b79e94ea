import numpy as np
import pytest

from lumbar_disk.ood import measure, median


def test_the_median_is_resampled_as_a_plain_loop_does():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=11).round(1), list("aabbbcddddd")
    found = median(values, groups, resamples=400, seed=3)
    drawn = np.random.default_rng(3).multinomial(4, [1 / 4] * 4, size=400)
    members = [
        np.array([value for value, group in zip(values, groups, strict=True) if group == one])
        for one in "abcd"
    ]
    medians = [
        np.median(np.concatenate([np.tile(one, times) for one, times in zip(members, row, strict=True)]))
        for row in drawn
    ]
    assert found == pytest.approx((np.median(values), *np.quantile(medians, [0.025, 0.975])))
    assert np.isnan(median([1.0, 2.0], ["a", "a"]).low)
    with pytest.raises(ValueError, match="1 not finite"):
        median([1.0, np.nan], ["a", "b"])


def test_what_counts_as_matched_is_what_was_attacked(made_up, tables):
    pairs = measure(tables, ["lung_ct"], made_up.within, resamples=9).matchings
    near = tables["P10_std"].where(attack="lung_ct/reg", metric="point_error").values() <= 0.5
    assert pairs["P10_std", "lung_ct", "reg"].matched == near.mean() > 0.5
    assert pairs["P10_std", "lung_ct", "none"].matched == 0
    pair = tables["P10_std_rec"].where(attack="lung_ct/aware:reconstruction")
    both = (pair.where(metric="point_error").values() <= 0.5) & (
        pair.where(head="mask", metric="dice").values() >= 0.98
    )
    assert pairs["P10_std_rec", "lung_ct", "aware:reconstruction"].matched == both.mean()
