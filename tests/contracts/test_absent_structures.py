"""Attacks on masks of images that lack a structure, or a class, judged by the hard Dice."""

import warnings
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import one_hot

from advreg import J_IND_seg, Steepest, Threat, auto_attack, dice, linf, negate, pgd_attack
from advreg.objectives import SharpenedDice, cross_entropy
from advreg.rules import Decayed, Shrinking
from advreg.tasks import masks

BUDGETS = pytest.mark.parametrize("budget", [20, 100])


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def averaging(channels, weight, bias):
    """Mask logits: a 3 x 3 sum, weighted and shifted."""
    net = nn.Conv2d(1, channels, 3, padding=1).eval()
    with torch.no_grad():
        net.weight.fill_(weight)
        net.bias.copy_(torch.tensor(bias))
    return net


@BUDGETS
def test_an_image_without_a_lesion(budget):
    """A false pixel, where the mean of 3 x 3 exceeds 0.61, is within reach of 0.5 + 0.15."""
    net, x, y = averaging(1, 2.0, [-11.0]), torch.full((1, 1, 16, 16), 0.5), torch.zeros(1, 1, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = auto_attack(net, x, y, heads={"": masks()}, threat=Threat(linf, 0.15), budget=budget)[""]
    assert (found.clean.item(), found.value.item()) == (1, 0)
    assert bool((net(found.x) > 0).any())
    assert found.found_by() == [masks().members[0].name]
    out_of_reach = auto_attack(net, x, y, heads={"": masks()}, threat=Threat(linf, 0.1), budget=budget)[""]
    assert out_of_reach.value.item() == 1


@BUDGETS
def test_a_structure_that_the_images_lack(budget):
    net, x = averaging(2, 0.2, [-1.2, -1.75]), torch.full((4, 1, 16, 16), 0.3)
    x[:, :, 3:9, 3:9] = 0.95
    y = (net(x) > 0).float()
    assert y.flatten(2).any(2).tolist() == [[True, False]] * 4
    found = auto_attack(net, x, y, heads={"": masks()}, threat=Threat(linf, 0.04), budget=budget)[""]
    assert found.clean.tolist() == [1] * 4
    assert (found.value <= 0.5).all()  # what one step towards brighter pixels reaches
    decided = net(found.x) > 0
    assert decided[:, 1].flatten(1).any(1).all()
    # Told to ignore what is absent, the metric sees the first structure alone.
    ignoring = auto_attack(
        net, x, y, heads={"": masks(absent="ignore")}, threat=Threat(linf, 0.04), budget=budget
    )[""]
    first = auto_attack(
        lambda x: net(x)[:, :1], x, y[:, :1], heads={"": masks()}, threat=Threat(linf, 0.04), budget=budget
    )[""]
    assert torch.equal(ignoring.value, first.value)


@BUDGETS
@pytest.mark.parametrize("metric", ["dice", "iou"])
def test_a_class_that_the_images_lack(metric, budget):
    """Background and a lesion that exclude each other: the lesion's share falls from 1 to 0 by one pixel."""
    lesion, x = averaging(1, 2.0, [-11.0]), torch.full((2, 1, 16, 16), 0.5)
    y = torch.zeros(2, 16, 16, dtype=torch.long)

    def net(x):
        return torch.cat([torch.zeros_like(x), lesion(x)], 1)

    task, threat = masks(metric=metric, activation="softmax", absent="count"), Threat(linf, 0.15)
    found = auto_attack(net, x, y, heads={"": task}, threat=threat, budget=budget)[""]
    assert found.clean.tolist() == [1, 1]
    assert (found.value <= 0.5).all()
    assert found.member.tolist() == [0, 0]


@pytest.mark.parametrize("number", range(len(masks().members)))
def test_every_member_finds_a_false_pixel(number):
    member, net = masks().members[number], averaging(1, 2.0, [-11.0])
    x = 0.5 + 0.05 * normal(3, 1, 16, 16).float()
    found = pgd_attack(
        net,
        x,
        torch.zeros(3, 1, 16, 16),
        objective=member.objective,
        rule=member.rule,
        schedule=member.schedule,
        threat=Threat(linf, 0.15),
        steps=20,
        judge=negate(dice),
    )
    assert (found.value == 0).all()


# The surrogate itself.


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_share_of_an_absent_channel_by_hand(factor):
    output, target = normal(3, 2, 4, 5, scale=3), (normal(3, 2, 4, 5, seed=1) > 0).double()
    target[0, 1], target[1] = 0, 0
    soft = SharpenedDice(factor, factor)
    for absent in ("count", "ignore"):
        expected = []
        for o, t in zip(output, target, strict=True):
            there = [k for k in range(2) if t[k].any()]
            shares = []
            for k in there if absent == "ignore" and there else range(2):
                p, m = (factor * o[k]).sigmoid(), factor * o[k].max()
                hit = 2 * (p * t[k]).sum() / (p.sum() + t[k].sum())
                shares.append(hit if k in there else (1 - m / (1 + m.abs())) / 2)
            expected.append(1 - sum(shares) / len(shares))
        found = SharpenedDice(factor, factor, absent=absent)(output, target)
        torch.testing.assert_close(found, torch.stack(expected))
    assert torch.autograd.gradcheck(lambda o: soft(o, target), output.clone().requires_grad_())


def test_with_exclusive_classes_it_is_the_lead_over_the_others():
    output = normal(2, 4, 3, 3, scale=3)
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    target[:, 0] = 2  # 1 and 3 are absent
    target[1, 2, 2] = 255
    p, expected = output.softmax(1), []
    for n in range(2):
        counted = target[n] != 255
        shares = []
        for k in range(4):
            if k in (0, 2):
                mask = target[n] == k
                shares.append(2 * p[n, k][mask].sum() / (p[n, k][counted].sum() + mask.sum()))
            else:
                others = torch.stack([output[n, j] for j in range(4) if j != k]).amax(0)
                m = (output[n, k] - others)[counted].max()
                shares.append((1 - m / (1 + m.abs())) / 2)
        expected.append(1 - sum(shares) / 4)
    options = {"activation": "softmax", "ignore_index": 255, "absent": "count"}
    objective = SharpenedDice(1.0, 1.0, **options)
    torch.testing.assert_close(objective(output, target), torch.stack(expected))
    assert torch.autograd.gradcheck(lambda o: objective(o, target), output.clone().requires_grad_())
    sharp = SharpenedDice(1.0, 1e7, **options)(output, target)
    torch.testing.assert_close(sharp, 1 - dice(output, target, **options), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, float("inf")])
def test_it_is_never_flat_however_sure_the_network_is(scale):
    output = torch.full((1, 1, 4, 4), -scale).requires_grad_()
    with torch.no_grad():
        output[0, 0, 2, 1] = -min(scale, 1e4) / 2
    value = SharpenedDice()(output, torch.zeros(1, 1, 4, 4))
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.flatten().nonzero().tolist() == [[9]]
    assert gradient[0, 0, 2, 1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_images_that_have_every_structure_are_attacked_as_before_bit_for_bit(activation, dtype):
    output, numbers = normal(4, 3, 9, 9, scale=4).to(dtype), torch.arange(4 * 81).reshape(4, 9, 9) % 3
    target = numbers if activation == "softmax" else one_hot(numbers, 3).movedim(-1, 1).to(dtype)
    mixed = target.clone()
    mixed[0] = 0  # beside them, one that lacks some
    for share in (0.0, 0.3, 1.0):
        factor = 0.5 * 6.0 ** min(1.0, share / 0.6)
        found = []
        for function, y in (
            (SharpenedDice(activation=activation).at(share), target),
            (lambda o, t, f=factor: J_IND_seg(f * o, t, activation=activation), target),
            (SharpenedDice(activation=activation).at(share), mixed),
        ):
            point = output.clone().requires_grad_()
            value = function(point, y)
            found.append((value.detach()[1:], torch.autograd.grad(value.sum(), point)[0][1:]))
        for value, gradient in found[1:]:
            assert torch.equal(value, found[0][0])
            assert torch.equal(gradient, found[0][1])


# Against a short objective.

PALETTE = torch.cartesian_prod(torch.tensor([0.0, 0.5, 1.0]), *[torch.tensor([0.0, 1.0])] * 2)


def scenes(classes, count, present, seed, size=20):
    """Noisy images of boxes, in a colour for each class, and their class numbers."""
    g = torch.Generator().manual_seed(seed)
    y = torch.zeros(count, size, size, dtype=torch.long)
    for image in y:
        for k in (torch.randperm(classes - 1, generator=g)[: present - 1] + 1).tolist():
            (a, b), (h, w) = (
                torch.randint(0, size - 8, (2,), generator=g),
                torch.randint(5, 12, (2,), generator=g),
            )
            image[a : a + h, b : b + w] = k
    noise = 0.08 * torch.randn(count, 3, size, size, generator=g)
    return (0.2 + 0.6 * PALETTE[:classes][y].movedim(-1, 1) + noise).clamp(0, 1), y


def trained(classes, present):
    """A small network for `scenes`, trained in seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = []
        for channels in (3, 16, 16):
            layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Conv2d(16, classes, 1))
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        x, y = scenes(classes, 64, present, 1)
        for step in range(150):
            some = slice(step % 4 * 16, step % 4 * 16 + 16)
            optimiser.zero_grad()
            torch_cross_entropy(net(x[some]), y[some]).backward()
            optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def one_thread():
    """Layers as small as these wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def four(one_thread):
    return trained(4, 4), *scenes(4, 6, 4, 2)


@pytest.fixture(scope="module")
def twelve(one_thread):
    return trained(12, 3), *scenes(12, 6, 3, 2)


@pytest.fixture(scope="module")
def sure(twelve):
    """A network that is sure of all it says: its logits are five times as large."""
    net, x, y = twelve
    net = deepcopy(net)
    with torch.no_grad():
        for part in net[-1].parameters():
            part.mul_(5)
    return net, x, y


@BUDGETS
@pytest.mark.parametrize("absent", [None, "count"])
@pytest.mark.parametrize("case", ["four", "twelve", "sure"])
def test_masks_of_classes_are_attacked_harder_than_by_cross_entropy(case, absent, budget, request):
    """Plain cross-entropy, signs that decay by a cosine, radii of 2, 1.5 and 1, judged by the Dice."""
    net, x, y = request.getfixturevalue(case)
    threat = Threat(linf, 0.1)
    task = masks(activation="softmax", absent=absent)
    ours = auto_attack(net, x, y, heads={"": task}, threat=threat, budget=budget)[""]
    short = pgd_attack(
        net,
        x,
        y,
        objective=partial(cross_entropy, activation="softmax"),
        threat=threat,
        rule=Decayed(Steepest(2.0)),
        schedule=Shrinking(),
        steps=budget,
        judge=negate(task.metric),
    )
    theirs = -short.value
    assert theirs.mean() < ours.clean.mean() - 0.02  # it is an attack
    assert ours.value.mean() <= theirs.mean()
    # Apart from the library: what is there, class by class.
    decided, worst = net(ours.x).argmax(1), []
    for image, truth in zip(decided, y, strict=True):
        dices = {
            k: 2 * ((image == k) & (truth == k)).sum() / ((image == k).sum() + (truth == k).sum())
            for k in range(net[-1].out_channels)
        }
        kept = dices if absent == "count" else {k: v for k, v in dices.items() if (truth == k).any()}
        worst.append(torch.stack([v.nan_to_num(1.0) for v in kept.values()]).mean())
    torch.testing.assert_close(ours.value, torch.stack(worst))
