"""A report says what was tried, and what was not."""

import numpy as np
import pytest

from advreg.detectors import Report, report
from advreg.metrics import detection, threshold


def normal(count, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, count)


def test_a_report_says_what_was_not_tried():
    low, options = normal(9), {"resamples": 9}
    clean = report("a", low, {"none": normal(9, 1.0)}, **options)
    unaware = report("b", low, {"unaware": normal(8, 0.5), "none": normal(9, 1.0)}, **options)
    full = report("c", low, {"aware": normal(7, -1.0), "none": normal(9, 1.0)}, **options)
    both = clean + unaware + full
    assert isinstance(both, Report)
    assert [(row.detector, row.adversary, row.count_out) for row in both.rows] == [
        ("a", "none", 9),
        ("b", "none", 9),
        ("b", "unaware", 8),
        ("c", "none", 9),
        ("c", "aware", 7),
    ]
    assert both.rows[0].detection == detection(low, normal(9, 1.0), **options)
    text = str(both).splitlines()
    assert text[1].split()[:2] == ["a", "none"]
    assert "a: clean OOD only: says nothing about an adversary" in text
    assert "b: no aware adversary: an adversary who knows the detector was not tried" in text
    assert set(both.warnings()) == {"a", "b"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold([]), r"scores_in must be \(N,\), N at least 1.*got shape \(0,\)"),
        (lambda: threshold([0.0, np.nan]), "1 NaN"),
        (lambda: threshold([0.0], 95), r"\(0, 1\].*got 95"),
        (lambda: detection([0.0], [[1.0]]), r"scores_out must be.*got shape \(1, 1\)"),
        (lambda: detection([0.0], [1.0, 2.0], groups_out=["a"]), "groups_out.*got 1 for 2 scores"),
        (lambda: detection([0.0], [1.0], confidence=95), "between 0 and 1"),
        (lambda: report("a", [0.0], {"clean": [1.0]}), r"\('none', 'unaware', 'aware'\); got \['clean'\]"),
        (lambda: report("a", [0.0], {}), r"got \[\]"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
