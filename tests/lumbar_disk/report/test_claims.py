import math

import pytest

from advreg.evaluation import Row, Table
from lumbar_disk.report import PAPER_RADII, Verdict, judge, published
from lumbar_disk.report._claims import MARGIN
from lumbar_disk.report._paper import TABLES, ordered
from lumbar_disk.study import MEASURES

PATIENTS = 6


def table(model, change=lambda measure, radius, patient: 0.0, radii=PAPER_RADII, discs=5):
    """A model whose every measurement is the published mean, changed where a test wants it."""
    return Table(
        Row(index, f"p{index // 5}", radius, one.head, one.head, one.metric, value)
        for name, one in MEASURES.items()
        for radius in radii
        for index in range(PATIENTS * discs)
        for value in [published(name, model, radius) + change(name, radius, index // 5)]
    )


@pytest.fixture(scope="module")
def tables():
    return {model: table(model) for model in ordered(set())}


def part(claim, text):
    return next(one for one in claim.parts if one.question.text == text)


def test_every_claim_holds_for_the_papers_own_numbers(tables):
    claims = judge(tables)
    assert [claim.number for claim in claims] == [1, 2, 3, 4, 5, 6]
    assert [claim.verdict for claim in claims] == ["holds"] * 6
    assert [len(claim.parts) for claim in claims] == [3, 12, 6, 12, 8, 12]
    for claim in claims:
        for one in claim.parts:
            assert one.measured.mean == pytest.approx(one.published)


def test_the_margin_lies_between_what_the_paper_calls_no_help_and_help():
    dice = {name: TABLES[name] for name in ("contour_dice", "mask_dice")}
    gains = {
        kind: [
            rows[f"{ssm}_{kind}"][0.03] - rows[f"{ssm}_std"][0.03]
            for rows in dice.values()
            for ssm in ("P3", "P5", "P10")
        ]
        for kind in ("rand", "adv_rs", "adv_s")
    }
    assert max(gains["rand"]) == pytest.approx(0.0918)
    assert max(gains["rand"]) < MARGIN < 0.15 < min(gains["adv_rs"] + gains["adv_s"])


def test_a_part_fails_when_its_whole_interval_is_on_the_other_side(tables):
    robust = {
        **tables,
        "P5_std": table("P5_std", lambda measure, radius, patient: 0.3 if measure == "mask_dice" else 0.0),
    }
    first = judge(robust)[0]
    assert first.verdict is Verdict.fails
    assert [one.verdict for one in first.parts] == ["holds", "fails", "holds"]
    assert first.parts[1].measured.mean == pytest.approx(0.297 + 0.3)
    assert first.parts[1].published == 0.297


def test_a_part_is_undecided_when_patients_disagree(tables):
    mixed = table(
        "P10_std", lambda measure, radius, patient: 0.4 * (patient % 2) if measure == "mask_dice" else 0.0
    )
    first = judge({**tables, "P10_std": mixed})[0]
    assert first.verdict is Verdict.undecided
    measured = first.parts[2].measured
    assert measured.low < 0.5 < measured.high
    assert [one.verdict for one in first.parts] == ["holds", "holds", "undecided"]


def test_patients_are_resampled_and_discs_are_not(tables):
    shift = lambda measure, radius, patient: 0.01 * patient  # noqa: E731 - brief
    measured = judge({**tables, "P3_std": table("P3_std", shift)})[0].parts[0].measured
    spread = 0.01 * math.sqrt(35 / 12 / PATIENTS)  # standard error of the mean of 0..5 over six patients
    assert (measured.high - measured.low) / (2 * 1.96 * spread) == pytest.approx(1.0, abs=0.15)


def test_differences_are_taken_disc_by_disc(tables):
    uneven = lambda measure, radius, patient: 0.0 if measure == "point_error" else -0.2 * (patient % 2)  # noqa: E731 - brief
    both = {name: table(name, uneven) for name in ("P3_std", "P3_adv_rs")}
    one = part(judge({**tables, **both})[2], "P3_adv_rs minus P3_std, mask Dice, radius 0.03")
    assert one.measured.low == pytest.approx(one.measured.high)  # what both have in common cancels
    assert one.measured.mean == pytest.approx(0.856 - 0.177)


def test_a_missing_model_leaves_its_parts_not_computed(tables):
    some = {name: rows for name, rows in tables.items() if name != "P10_rand_pure"}
    claims = judge(some)
    assert [claim.verdict for claim in claims] == ["holds", "not computed", *["holds"] * 4]
    lost = [one for one in claims[1].parts if one.verdict is Verdict.missing]
    assert len(lost) == 2
    assert all(one.measured is None and one.reason == "P10_rand_pure not there" for one in lost)
    assert all(one.published is not None for one in lost)


def test_one_failing_part_refutes_a_claim_whatever_is_missing(tables):
    helped = {"P3_std": tables["P3_std"], "P3_rand": table("P3_rand", lambda measure, radius, patient: 0.3)}
    assert judge(helped)[1].verdict is Verdict.fails


def test_nothing_at_all_is_not_computed():
    assert {claim.verdict for claim in judge({})} == {Verdict.missing}


def test_a_radius_that_was_not_evaluated_is_named(tables):
    few = {name: table(name, radii=(0.0, 0.01)) for name in tables}
    claims = judge(few)
    assert claims[0].parts[0].reason == "radius 0.03 was not evaluated"
    assert claims[5].verdict is Verdict.holds


def test_one_patient_gives_no_interval_and_no_verdict():
    alone = {"P3_std": table("P3_std").where(index=range(5))}
    one = judge(alone)[0].parts[0]
    assert one.measured.mean == pytest.approx(0.177)
    assert math.isnan(one.measured.low)
    assert one.verdict is Verdict.undecided


def test_models_evaluated_on_different_discs_are_not_compared(tables):
    with pytest.raises(ValueError, match="30 and 24 discs, 24 of them in both"):
        judge({**tables, "P3_std": table("P3_std", discs=4)})
