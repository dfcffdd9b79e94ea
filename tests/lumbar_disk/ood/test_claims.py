import numpy as np
import pytest

from advreg.evaluation import Table
from lumbar_disk.ood._recipe import MODELS
from lumbar_disk.report import Verdict

DISCS = 30


def test_the_papers_claims_hold_for_results_like_the_papers(made_up, tables):
    claims = made_up.claims(tables)
    assert [claim.number for claim in claims] == [7, 8, 9]
    assert [claim.verdict for claim in claims] == ["holds"] * 3
    assert [[part.verdict for part in claim.parts] for claim in claims] == [
        ["holds"] * 2,
        ["holds"] * 2 + ["not judged"] * 4,
        ["holds"] * 2,
    ]
    known = [part.question.text for part in claims[1].parts]
    assert sum("clean OOD only" in text for text in known) == 2
    assert [part.condition for part in claims[1].parts] == ["below 0.5"] * 2 + [""] * 4
    assert claims[1].parts[2].measured.mean == 1.0  # clean: told, and far above 0.5


@pytest.mark.parametrize(
    ("number", "model", "head", "metric", "adversary", "values", "verdict"),
    [
        (7, "P10_std", "mask", "dice", "seg", [0.9] * DISCS, "fails"),
        (7, "P10_std", "contour", "dice", "reg", [0.9] * 15 + [0.99] * 15, "undecided"),
        (8, "P10_std_rec", "detector", "reconstruction", "unaware", [0.2] * DISCS, "fails"),
        (8, "P10_adv_rs_rec", "detector", "reconstruction", "unaware", [0.01, 0.2] * 15, "undecided"),
        (9, "P10_adv_rs_rec", "perturbation", "own", "unaware", [0.0] * DISCS, "fails"),
        (9, "P10_std_rec", "perturbation", "own", "unaware", [0.0] * 15 + [0.8] * 15, "undecided"),
    ],
)
def test_a_claim_falls_with_its_measurements(
    made_up, tables, number, model, head, metric, adversary, values, verdict
):
    def change(*what):
        return np.array(values) if what[:3] == (head, metric, adversary) else what[3]

    found = made_up.claims({**tables, model: made_up.small(model, change)})
    assert [claim.verdict for claim in found if claim.number == number] == [verdict]
    assert {claim.verdict for claim in found if claim.number != number} == {Verdict.holds}


def test_what_is_missing_is_named(made_up, tables):
    found = made_up.claims({"P10_std": tables["P10_std"]})
    assert [claim.verdict for claim in found] == ["holds", "not computed", "not computed"]
    assert found[1].parts[0].reason == "P10_std_rec not there"
    assert found[2].parts[1].reason == "P10_adv_rs_rec not there"
    some = Table(row for row in tables["P10_std"] if not row.attack.endswith("/seg"))
    first = made_up.claims({"P10_std": some})[0]
    assert [part.reason for part in first.parts] == ["", "lung_ct/seg was not evaluated"]
    assert first.verdict is Verdict.missing
    assert {claim.verdict for claim in made_up.claims({})} == {Verdict.missing}


def test_differences_between_models_are_taken_disc_by_disc(made_up, tables):
    def change(head, metric, adversary, values):
        both = np.linspace(0, 0.9, DISCS) + 0.05 * ("own" in metric)
        return both if head == "perturbation" else values

    two = {name: made_up.small(name, change) for name in MODELS[1:]}
    part = made_up.claims({**tables, **two})[2].parts[1]
    assert part.measured == pytest.approx((0, 0, 0))
    with pytest.raises(ValueError, match="30 and 25, 25 of them for both"):
        made_up.claims({**tables, "P10_std_rec": made_up.small("P10_std_rec", discs=25)})


def test_the_first_source_stands_in_for_lung_ct(made_up, tables):
    renamed = {
        name: Table(row._replace(attack=row.attack.replace("lung_ct", "blocks")) for row in one)
        for name, one in tables.items()
    }
    found = made_up.claims(renamed, ["blocks", "uniform"])
    assert "attacked images of blocks" in found[0].sentence
    assert {claim.verdict for claim in found} == {Verdict.holds}
    with pytest.raises(ValueError, match="at least one source"):
        made_up.claims({}, [])
