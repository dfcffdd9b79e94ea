"""What is known of each example: the better of two runs, whatever their order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from advreg.attacks._best import Track, joined

NUMBERS = st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3)


def track(values, *, finished=False, place=None):
    centre = torch.zeros(3, 2)
    value = torch.tensor(values)
    found = Track.of(centre).keeping(torch.ones(3, dtype=torch.bool), value[:, None].expand(3, 2), value, 1)
    return found._replace(
        finished=torch.full((3,), finished), place=torch.arange(3) if place is None else place
    )


def test_nothing_met_is_worse_than_any_point():
    nothing = Track.of(torch.zeros(3, 2))
    low = track([-9e30] * 3)
    assert torch.equal(nothing.joining(low).value, low.value)
    assert torch.equal(low.joining(nothing).value, low.value)
    assert (nothing.step == -1).all()


@given(NUMBERS, NUMBERS, NUMBERS)
def test_of_several_runs_the_best_is_kept_whatever_their_order(a, b, c):
    best = torch.tensor([a, b, c]).amax(0)
    for first, second, third in ((a, b, c), (c, b, a), (b, a, c)):
        kept = track(first).joining(track(second)).joining(track(third))
        assert torch.equal(kept.value, best)
        assert torch.equal(kept.x[:, 0], best)  # the point that goes with it


@given(NUMBERS, NUMBERS)
def test_a_finished_run_is_kept_even_where_another_found_more(a, b):
    kept = track(a).joining(track(b, finished=True))
    assert torch.equal(kept.value, torch.tensor(b))
    assert kept.finished.all()


def test_the_first_step_that_was_not_finite_is_remembered():
    found = track([0.0] * 3)
    fine, gradient = torch.zeros(3), torch.ones(3, 2)
    found = found.seeing(fine, gradient, 0)
    assert not found.sick.any()
    assert found.moved.all()
    found = found.seeing(torch.tensor([0.0, torch.nan, 0.0]), gradient, 1)
    spoilt = gradient.clone()
    spoilt[2, 1] = torch.inf
    found = found.seeing(fine, spoilt, 2).seeing(torch.full((3,), torch.nan), None, 3)
    assert found.since.tolist() == [3, 1, 2]
    still = track([0.0] * 3).seeing(fine, 0 * gradient, 0)
    assert not still.moved.any()


@given(st.permutations(range(6)), st.integers(1, 5))
def test_tracks_of_parts_go_back_to_their_places(order, cut):
    places = torch.tensor(order)
    values = torch.arange(6.0)
    whole = Track.of(torch.zeros(6, 2))
    parts = [
        whole.taken(places[part])._replace(value=values[places[part]]) for part in (slice(cut), slice(cut, 6))
    ]
    back = joined(parts)
    assert torch.equal(back.taken(back.place.argsort()).value, values)
    assert torch.equal(whole.putting(places[:cut], parts[0]).value[places[:cut]], values[places[:cut]])
    assert [run.value.tolist() for run in back.runs(2)] == back.value.reshape(3, 2).tolist()
