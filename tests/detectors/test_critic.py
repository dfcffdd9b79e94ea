"""The critic whose score moves no faster than its input."""

import numpy as np
import pytest
import torch

from advreg import Adamax, Threat, l2, ood_attack, pgd_attack
from advreg.certificates import guaranteed_auroc
from advreg.detectors import Detector, LipschitzCritic, aware, lower_score
from advreg.metrics import auroc

OPTIONS = {"pool": 2, "width": 16, "depth": 3}
ALLOWANCE = 1e-4  # rounding of scores of size 10 in float32


def images(count, seed, shift=0.0):
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def critic():
    return LipschitzCritic(**OPTIONS).fit([images(200, 0)], [images(200, 1, 0.3)], margin=1.5, steps=150)


def test_it_tells_what_it_was_fitted_to_from_outliers_not_seen(critic):
    assert isinstance(critic, Detector)
    inside, outside = critic.score(images(100, 2)), critic.score(images(100, 3, 0.3))
    scores = torch.cat([inside, outside])
    assert auroc(scores, torch.arange(200) >= 100) > 0.99
    assert critic.lipschitz == pytest.approx(1, abs=1e-5)


def test_no_sampled_change_moves_a_score_by_more_than_its_size(critic):
    """Ten thousand changes of all sizes, half along the input's gradient, in float32."""
    g = torch.Generator().manual_seed(0)
    x = images(10_000, 4, 0.0) * torch.rand(10_000, 1, 1, 1, generator=g) * 2
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic.score(free).sum(), free)
    size = 10 ** (4 * torch.rand(10_000, 1, 1, 1, generator=g) - 3)
    way = torch.where(
        torch.arange(10_000)[:, None, None, None] % 2 == 0, -gradient, torch.randn(x.shape, generator=g)
    )
    moved = x + size * way / way.flatten(1).norm(dim=1)[:, None, None, None]
    apart = (moved - x).flatten(1).double().norm(dim=1)
    change = (critic.score(moved) - critic.score(x)).abs()
    assert (change <= apart + ALLOWANCE).all()
    assert (change[::2] / apart[::2]).median() > 0.7  # the bound is nearly met: it could be broken


def test_no_attack_lowers_a_score_by_more_than_its_radius(critic):
    x, threat = images(20, 5, 0.3), Threat(l2, 1.0, bounds=None)
    found = pgd_attack(critic.score, x, None, objective=lambda score, _: -score, threat=threat, steps=40)
    fall = critic.score(x) - critic.score(found.x)
    assert (fall <= 1.0 + ALLOWANCE).all()
    assert fall.mean() > 0.7


def test_the_aware_adversary_finds_no_less_than_is_guaranteed(critic):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2)).eval()
    x_in, x_out = images(30, 6), images(30, 7, 0.3)
    objective = lower_score(lambda output, target: -(output - target).norm(dim=1))
    for radius in (0.5, 1.5):
        found = ood_attack(
            aware(model, critic),
            x_in,
            x_out,
            objective=objective,
            threat=Threat(l2, radius, bounds=None),
            rule=Adamax(0.05),
            steps=30,
        )
        inside, outside, moved = (critic.score(one).detach() for one in (x_in, x_out, found.x))
        held = guaranteed_auroc(inside, outside, radius, critic.lipschitz, allowance=ALLOWANCE)
        scores = torch.cat([inside, moved])
        assert float(auroc(scores, torch.arange(60) >= 30)) >= held.mean


def test_it_is_the_network_that_its_docstring_writes_out(critic):
    x = images(3, 8)
    cells = x.numpy().astype(np.float64).reshape(3, 6, 2, 6, 2).sum((2, 4)).reshape(3, 36) / 2
    for weight, bias in zip(critic.weights[:-1], critic.biases[:-1], strict=True):
        pairs = (cells @ weight.numpy().T + bias.numpy()).reshape(3, -1, 2)
        cells = np.concatenate([pairs.max(2), pairs.min(2)], 1)
    expected = cells @ critic.weights[-1].numpy().T + critic.biases[-1].numpy()
    np.testing.assert_allclose(critic.score(x).numpy(), expected[:, 0], rtol=1e-4, atol=1e-5)


def test_a_file_gives_back_the_same_critic_and_a_changed_one_is_refused(critic, tmp_path):
    path = critic.save(tmp_path / "critic.npz")
    again = LipschitzCritic.load(path)
    x = images(4, 9)
    assert torch.equal(again.score(x), critic.score(x))
    assert (again.pool, again.width, again.depth) == (2, 16, 3)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["weight1"] = 1.01 * arrays["weight1"]
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(ValueError, match=r"must multiply to 1 at most; got 1\.01"):
        LipschitzCritic.load(tmp_path / "changed.npz")
    arrays["weight1"] = np.full_like(arrays["weight1"], np.nan)
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(ValueError, match="must multiply to 1 at most; got nan"):
        LipschitzCritic.load(tmp_path / "nan.npz")
    del arrays["weight1"]
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(ValueError, match="lacks 'weight1' of a critic"):
        LipschitzCritic.load(tmp_path / "part.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="is not what a detector's save wrote"):
        LipschitzCritic.load(tmp_path / "text.npz")


def test_a_window_and_kinds_by_name_and_a_seed():
    """Outside the window nothing counts; kinds count alike; a seed decides all."""
    kinds = {"bright": [images(10, 1, 0.5)], "dark": [images(100, 2, -0.5)]}
    cut = LipschitzCritic(pool=2, window=(4, 2, 4), width=8, depth=2)
    one, same, other = (
        cut.fit([images(50, 0)], kinds, steps=60, margin=0.5, seed=seed) for seed in (0, 0, 1)
    )
    x = images(5, 3)
    changed = x.clone()
    changed[:, :, :4] = 0
    changed[:, :, :, 6:] = 0
    assert torch.equal(one.score(x), one.score(changed))
    assert not torch.equal(one.score(x), one.score(x.flip(2)))
    assert torch.equal(one.score(x), same.score(x))
    assert not torch.equal(one.score(x), other.score(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_floating_dtype(critic, dtype):
    x = images(4, 0).to(dtype)
    torch.testing.assert_close(critic.score(x).float(), critic.score(x.float()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: LipschitzCritic(width=7), "width must be even"),
        (lambda c: LipschitzCritic(pool=0), "pool must be a whole number above 0; got 0"),
        (lambda c: LipschitzCritic(window=(0, 0, 0)), "window must be"),
        (lambda c: LipschitzCritic().score(images(2, 0)), "the critic is not fitted"),
        (lambda c: LipschitzCritic().save("critic.npz"), "the critic is not fitted"),
        (
            lambda c: c.score(torch.rand(2, 1, 16, 16)),
            r"fitted to, 36 numbers after pooling; got \(1, 16, 16\)",
        ),
        (lambda c: c.score(torch.rand(2, 1, 9, 9)), "multiples of 2"),
        (
            lambda c: LipschitzCritic(window=(4, 4, 10)).fit([images(2, 0)], [images(2, 1)]),
            r"needs \(B, C, H, W\) of 14 x 14 pixels at least; got \(2, 1, 12, 12\)",
        ),
        (lambda c: c.score(torch.full((2, 1, 12, 12), torch.nan)), "must be finite"),
        (lambda c: c.fit([images(2, 0)], {}), "outside must hold outliers"),
        (lambda c: c.fit([images(2, 0)], {"none": []}), "none must hold inputs"),
        (lambda c: c.fit([images(2, 0)], [images(2, 1)], margin=0), "margin and lr must be above 0"),
        (lambda c: c.fit([images(2, 0)], [images(2, 1)], steps=0), "steps must be a whole number above 0"),
    ],
)
def test_refusals(critic, act, message):
    with pytest.raises(ValueError, match=message):
        act(critic)


def test_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    LipschitzCritic(**OPTIONS).fit([images(10, 0)], [images(10, 1)], steps=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pool", [1, 2])
def test_whole_numbers_are_refused_and_not_rounded_into_a_score(pool):
    grey, strange = (torch.randint(0, 255, (4, 1, 4, 4), dtype=torch.uint8) for _ in range(2))
    critic = LipschitzCritic(pool=pool, width=4, depth=1)
    fitted = critic.fit([grey / 255], [strange / 255], steps=2)
    for act in (lambda: critic.fit([grey], [strange]), lambda: fitted.score(grey)):
        with pytest.raises(TypeError, match=r"takes floating-point inputs; got torch.uint8: scale them"):
            act()
