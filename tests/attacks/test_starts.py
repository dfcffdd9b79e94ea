"""A power start is the direction that the head's Jacobian stretches most, whatever the batch."""

import math

import pytest
import torch
from networks import batch, two_heads

from advreg import J_IND_reg, Threat, l1, l2, linf, on, pgd_attack
from advreg.attacks import power_start

FREE = {"bounds": None}


class Matrix(torch.nn.Module):
    """A matrix with known singular vectors."""

    def __init__(self, rows=7, columns=12):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(rows, columns, generator=g))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def stretch(weight, d):
    return (d.flatten(1) @ weight.T).norm(dim=1)


def jacobian(function, x):
    """Of each example alone, by torch's own row after row."""
    return torch.stack([torch.autograd.functional.jacobian(function, one[None]).flatten(1) for one in x])


def test_under_l2_it_is_the_top_right_singular_vector():
    model, x = Matrix(), torch.full((5, 3, 4), 0.5)
    start = power_start(model, x, threat=Threat(l2, 0.2, **FREE), iterations=200)
    top = torch.linalg.svd(model.weight.detach()).Vh[0]
    d = (start - x).flatten(1) / 0.2
    sign = (d @ top).sign()[:, None]
    assert (d - sign * top).abs().max() < 1e-4
    assert len(sign.unique()) == 2  # chance decides the sign


def test_of_a_network_it_is_the_singular_vector_at_each_input():
    model, (x, _) = two_heads(dtype=torch.float64), batch(3, dtype=torch.float64)
    start = power_start(model, x, threat=Threat(l2, 0.1, **FREE), head="contour", iterations=400)
    own = jacobian(lambda one: model(one)["contour"].flatten(), x).reshape(3, 10, 64)
    top = torch.linalg.svd(own).Vh[:, 0]
    assert (((start - x).flatten(1) / 0.1 * top).sum(1).abs() - 1).abs().max() < 1e-6


def test_under_linf_it_is_a_corner_that_its_own_gradient_points_to():
    model, x = Matrix(), torch.full((40, 12), 0.5)
    start = power_start(model, x, threat=Threat(linf, 0.1, **FREE), iterations=50)
    d = (start - x) / 0.1
    assert torch.allclose(d.abs(), torch.ones_like(d), atol=1e-5)
    assert torch.equal((d @ model.weight.T @ model.weight).sign(), d.sign())


def test_under_linf_it_beats_a_thousand_random_corners_for_most_seeds():
    model, x = Matrix(columns=100), torch.full((40, 100), 0.5)
    d = (power_start(model, x, threat=Threat(linf, 0.1, **FREE)) - x) / 0.1
    corners = torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)).sign()
    best = stretch(model.weight.detach(), corners).max()
    assert (stretch(model.weight.detach(), d) >= best).double().mean() > 0.9


def test_under_l1_it_is_an_entry_and_a_long_column():
    model, x = Matrix(), torch.full((20, 12), 0.5)
    start = power_start(model, x, threat=Threat(l1, 0.1), iterations=10)
    assert ((start != x).sum(1) == 1).all()
    longest = model.weight.detach().norm(dim=0).max()
    assert (stretch(model.weight.detach(), (start - x) / 0.1) > 0.7 * longest).all()


@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_more_iterations_never_stretch_less(norm):
    model, x = Matrix(), torch.full((20, 12), 0.5)
    threat = Threat(norm, 0.1, **FREE)
    lengths = torch.stack(
        [
            stretch(model.weight.detach(), power_start(model, x, threat=threat, iterations=n) - x)
            for n in range(1, 8)
        ]
    )
    assert (lengths.diff(dim=0) >= -1e-6).all()


def test_it_escapes_the_zero_gradient_at_the_models_own_output():
    model, (x, _) = two_heads(), batch()
    threat, objective = Threat(l2, 0.5), on("contour", J_IND_reg)
    with torch.no_grad():
        y = model(x)
    options = {"objective": objective, "threat": threat, "random_start": False, "steps": 20}
    with pytest.warns(UserWarning, match="gradient is zero"):
        stuck = pgd_attack(model, x, y, **options)
    assert torch.equal(stuck.x, x)
    start = power_start(model, x, threat=threat, head="contour")
    found = pgd_attack(model, x, y, start=start, **options)
    assert (found.gain > 0).all()
    beside = threat.project(x + 0.5 * l2.steepest(torch.randn(x.shape)), x)
    assert (objective(model(start), y) > objective(model(beside), y)).all()


@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_an_examples_start_is_its_own(norm):
    model, (x, _) = two_heads(dtype=torch.float64), batch(5, dtype=torch.float64)
    radius = torch.linspace(0.1, 0.5, 5)
    index = torch.arange(5) + 10
    together = power_start(model, x, threat=Threat(norm, radius), head="mask", index=index)
    for place in (3, 0):
        alone = power_start(
            model,
            x[place : place + 1],
            threat=Threat(norm, radius[place].item()),
            head="mask",
            index=index[place : place + 1],
        )
        assert torch.allclose(alone[0], together[place], atol=1e-9)
    other = power_start(model, x, threat=Threat(norm, radius), head="mask", index=index, seed=1, iterations=0)
    assert not torch.allclose(other, together)


@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_it_lies_in_the_threat_and_its_mask(norm):
    model, (x, _) = two_heads(), batch()
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 2:6] = True
    threat = Threat(norm, 0.8, mask=mask)
    start = power_start(model, x, threat=threat, head="contour")
    assert threat.contains(start, x).all()
    assert ((start != x) & ~mask).sum() == 0
    assert (start != x).flatten(1).any(1).all()


def test_only_what_the_mask_leaves_is_stretched():
    model, x = Matrix(), torch.full((2, 12), 0.5)
    mask = torch.arange(12) < 5
    start = power_start(model, x, threat=Threat(l2, 0.1, mask=mask), iterations=200)
    top = torch.linalg.svd(model.weight.detach()[:, :5]).Vh[0]
    assert (((start - x)[:, :5] / 0.1 @ top).abs() - 1).abs().max() < 1e-4


@pytest.mark.parametrize("iterations", [0, 1, 6])
def test_one_forward_pass_whatever_the_iterations(iterations):
    calls = []

    def model(x):
        calls.append(x)
        return x.square()

    power_start(model, torch.rand(2, 4), threat=Threat(l2, 0.1), iterations=iterations)
    assert len(calls) == 1


def test_a_model_is_asked_for_the_head_that_is_meant():
    asked = []

    def model(x, heads=("contour", "mask")):
        asked.append(heads)
        return dict.fromkeys(heads, x)

    power_start(model, torch.rand(2, 4), threat=Threat(l2, 0.1), head="mask")
    assert asked == [("mask",)]


def test_the_model_stays_as_it_was():
    model, (x, _) = two_heads(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    start = power_start(model, x.requires_grad_(), threat=Threat(linf, 0.1), head="contour")
    assert not start.requires_grad
    assert x.grad is None
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_convolution_group_norm_relu_and_pooling(mode, dtype):
    layers = (
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.GroupNorm(2, 4),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 1, 1),
    )
    model, (x, _) = torch.nn.Sequential(*layers).to(dtype).eval(), batch(dtype=dtype)
    with mode():
        start = power_start(model, x * 1, threat=Threat(linf, 0.1))
    assert start.dtype == dtype
    assert start.isfinite().all()
    assert (start != x).flatten(1).any(1).all()


def test_attention_is_differentiated_twice_and_left_as_it_was():
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fused = torch.backends.cuda.flash_sdp_enabled()
    x = torch.rand(3, 5, 8)
    start = power_start(model, x, threat=Threat(l2, 0.1, **FREE))
    assert torch.allclose((start - x).flatten(1).norm(dim=1), torch.full((3,), 0.1), atol=1e-5)
    assert torch.backends.cuda.flash_sdp_enabled() == fused


@pytest.mark.parametrize("flat", [torch.round, lambda x: (x - 9).relu()], ids=["rounded", "dead"])
def test_without_a_slope_the_direction_is_random(flat):
    x = torch.full((3, 4), 0.5)
    start = power_start(flat, x, threat=Threat(l2, 0.1))
    assert torch.allclose((start - x).norm(dim=1), torch.full((3,), 0.1))
    assert torch.equal(start, power_start(flat, x, threat=Threat(l2, 0.1), iterations=0))


def test_a_slope_far_from_one_neither_vanishes_nor_overflows():
    x = torch.full((3, 4), 0.5)
    scale = torch.tensor([3.0, 1.0, 1.0, 1.0])
    for size in (1e-25, 1e25):
        start = power_start(lambda x, size=size: x * scale * size, x, threat=Threat(l2, 0.1), iterations=30)
        assert torch.allclose((start - x)[:, 0].abs(), torch.full((3,), 0.1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threat": Threat(l2, math.inf)}, ValueError, "start of your own"),
        ({"iterations": -1}, ValueError, "0 or more"),
        ({"head": "depth"}, KeyError, "heads"),
        ({"head": ""}, TypeError, "head='contour'"),
        ({"x": torch.full((4, 1, 8, 8), 2.0)}, ValueError, "bounds"),
    ],
)
def test_errors_teach(options, error, words):
    call = {"x": batch()[0], "threat": Threat(l2, 0.1), "head": "mask", **options}
    with pytest.raises(error, match=words):
        power_start(two_heads(), call.pop("x"), **call)


@pytest.mark.parametrize("model", [lambda x: x.detach() + 1, lambda x: x.new_ones(4, requires_grad=True)])
def test_an_output_without_a_slope_is_refused(model):
    with pytest.raises(ValueError, match="does not depend on the input"):
        power_start(model, torch.rand(4, 3), threat=Threat(l2, 0.1))


def test_a_slope_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"not finite for examples 0, 1"):
        power_start(lambda x: (x - x.detach()).sqrt(), torch.rand(2, 3), threat=Threat(l2, 0.1))
