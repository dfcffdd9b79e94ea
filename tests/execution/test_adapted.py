"""Networks of others, adapted: called in their way, heads picked, normalised inside, safe as any module."""

import copy
from types import SimpleNamespace

import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Execution, J_IND_reg, J_IND_seg, Threat, diagnose, l2, linf, on, pgd_attack
from advreg.detectors import MahalanobisDetector
from advreg.execution import Adapted, pruned
from advreg.training import L_adv_r


class Theirs(nn.Module):
    """A keyword, an object with attributes and a list of stages, logits at half size."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"stem": nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Tanh())}
        )
        self.decoder, self.points = nn.Conv2d(4, 1, 1), nn.Linear(4, 6)

    def forward(self, *, pixel_values, scale=1.0):
        code = self.encoder["stem"](pixel_values)
        points = scale * self.points(code.mean((2, 3))).unflatten(1, (3, 2))
        return SimpleNamespace(logits=self.decoder(code), stages=[code, points])


def masks(found):
    return nn.functional.interpolate(found.logits, scale_factor=2, mode="bilinear")


HEADS = {"mask": masks, "points": lambda found: found.stages[-1]}


@pytest.fixture
def net():
    return seeded(Theirs).eval()


def test_the_heads_are_those_of_a_call_by_hand(net):
    x, mean, std = uniform(4, 3, 8, 8), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    found = Adapted(net, "pixel_values", HEADS, mean=mean, std=std)(x)
    channel = [(x[:, c] - mean[c]) / std[c] for c in range(3)]
    by_hand = net(pixel_values=torch.stack(channel, 1))
    torch.testing.assert_close(found["mask"], masks(by_hand))
    torch.testing.assert_close(found["points"], by_hand.stages[1])
    same = Adapted(net, lambda net, x: net(pixel_values=x), "logits", mean=0.5)(x)
    torch.testing.assert_close(same, net(pixel_values=x - 0.5).logits)


def test_several_inputs_are_keywords_or_arguments(net):
    x, scale = uniform(4, 3, 8, 8), torch.tensor(2.0)
    found = Adapted(net, output="stages")({"pixel_values": x, "scale": scale})[1]
    torch.testing.assert_close(found, net(pixel_values=x, scale=2.0).stages[1])
    two = nn.Bilinear(3, 2, 4)
    a, b = uniform(5, 3), uniform(5, 2) + 1
    torch.testing.assert_close(Adapted(two)((a, b)), two(a, b))
    scaled = Adapted(two, mean={1: 1.0}, std={0: [1.0, 2.0, 4.0]})((a, b))
    torch.testing.assert_close(scaled, two(a / torch.tensor([1.0, 2.0, 4.0]), b - 1))


@pytest.mark.parametrize("pick", [0, "first", lambda found: found["first"]])
def test_a_head_by_place_key_or_function(pick):
    form = (lambda x: [x, 2 * x]) if pick == 0 else (lambda x: {"first": x, "second": 2 * x})

    class Forms(nn.Module):
        def forward(self, x):
            return form(x)

    x = uniform(2, 3)
    assert torch.equal(Adapted(Forms(), output=pick)(x), x)


@pytest.mark.parametrize("execution", [Execution(), Execution("bfloat16"), Execution(micro_batch=2)])
def test_an_attack_is_that_on_the_same_network_by_hand_and_leaves_it_alone(net, execution):
    x, y = uniform(5, 3, 8, 8), {"mask": (uniform(5, 1, 8, 8) > 0.5).float()}
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    options = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 5}
    adapted = Adapted(net, "pixel_values", HEADS, mean=0.5, std=0.25)
    found = pgd_attack(adapted, x, y, execution=execution, **options)
    by_hand = pgd_attack(
        lambda x: {"mask": masks(net(pixel_values=(x - 0.5) / 0.25))}, x, y, execution=execution, **options
    )
    torch.testing.assert_close(found.value, by_hand.value, rtol=1e-3, atol=1e-4)
    assert Threat(linf, 0.1).contains(found.x, x).all()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_batch_statistics_are_refused_and_a_diagnosis_looks_inside(net):
    x, y = uniform(8, 3, 8, 8), {"points": torch.zeros(8, 3, 2)}
    options = {"objective": on("points", J_IND_reg), "threat": Threat(l2, 0.5)}
    adapted = Adapted(net.train(), "pixel_values", HEADS)
    with pytest.raises(ValueError, match="statistics"):
        pgd_attack(adapted, x, y, steps=2, **options)
    assert "mode" in diagnose(adapted, x, y, steps=10, queries=30, **options).flagged
    adapted.eval()
    assert not net.training
    assert "mode" not in diagnose(adapted, x, y, steps=10, queries=30, **options).flagged


def test_it_is_in_the_mode_of_its_network(net):
    assert not any(module.training for module in Adapted(net, mean=0.5).modules())
    assert Adapted(net.train()).training


def test_only_what_a_head_needs_is_computed(net):
    calls = []
    net.decoder.forward = lambda x, own=net.decoder.forward: (calls.append(len(x)), own(x))[1]
    x = uniform(4, 3, 8, 8)
    part = pruned(Adapted(net, "pixel_values", HEADS, mean=0.5), ["points"], x)
    calls.clear()
    torch.testing.assert_close(part(x)["points"], net(pixel_values=x - 0.5).stages[1])
    assert len(calls) == 1  # the call by hand


def test_layers_keep_their_names_and_training_works(net):
    adapted = Adapted(net, "pixel_values", HEADS, mean=0.5)
    assert adapted.get_submodule("encoder.stem.0") is net.encoder["stem"][0]
    assert adapted.get_submodule("net.encoder") is net.encoder
    assert adapted.get_submodule("") is adapted
    with pytest.raises(AttributeError):
        adapted.get_submodule("encoder.none")
    loss = L_adv_r(on("points", J_IND_reg), reg=on("points", J_IND_reg), threat=Threat(linf, 0.1), steps=2)
    x, y = uniform(4, 3, 8, 8), {"points": torch.ones(4, 3, 2)}
    optimiser = torch.optim.SGD(adapted.parameters(), 0.05)
    values = []
    for seed in range(20):
        optimiser.zero_grad()
        total, parts = loss(adapted.train(), x, y, seed=seed)
        total.backward()
        optimiser.step()
        values.append(float(parts["clean"]))
    assert values[-1] < 0.5 * values[0]
    assert adapted.net.state_dict().keys() == seeded(Theirs).state_dict().keys()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Adapted(lambda x: x), TypeError, "net must be a torch.nn.Module; got function"),
        (lambda: Adapted(nn.ReLU(), call=3), TypeError, "call must be a keyword"),
        (lambda: Adapted(nn.ReLU(), output=[1.5]), TypeError, "output must be a key"),
        (lambda: Adapted(nn.ReLU(), output={"a": None, "b": 1.5}), TypeError, "got 1.5"),
        (lambda: Adapted(nn.ReLU(), std=0.0), ValueError, "std must be above zero"),
        (lambda: Adapted(nn.ReLU(), std="big"), TypeError, "std must be one number"),
        (lambda: Adapted(nn.ReLU(), mean=float("nan")), ValueError, "mean must be finite"),
        (lambda: Adapted(nn.ReLU(), mean={"a": 1.0}, std=2.0), TypeError, "both be by key"),
        (
            lambda: Adapted(nn.ReLU(), mean=[0.1, 0.2])(torch.rand(2, 3)),
            ValueError,
            "got 2 for inputs of shape",
        ),
        (lambda: Adapted(nn.ReLU(), output="logits")(torch.rand(2, 3)), KeyError, "no head 'logits'"),
    ],
)
def test_errors_say_what_was_expected(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_detector_reads_a_layer_by_the_networks_own_name(net):
    x, adapted = uniform(8, 3, 8, 8), Adapted(net, "pixel_values", HEADS)
    by_name, by_hand = (
        MahalanobisDetector(adapted, layer).fit([x]) for layer in ("encoder.stem", net.encoder["stem"])
    )
    assert torch.equal(by_name.score(x), by_hand.score(x))
