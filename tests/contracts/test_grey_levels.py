"""Results on grey levels survive the file that they are written to, and are as strong as any that do."""

import io

import numpy as np
import pytest
import torch
from networks import uniform
from PIL import Image
from torch import nn

from advreg import (
    Adamax,
    J_IND_seg,
    J_OOD_seg,
    Keys,
    Steepest,
    Threat,
    auto_attack,
    dice,
    evaluate,
    l1,
    l2,
    linf,
    negate,
    ood_attack,
    pgd_attack,
)
from advreg.attacks import power_start, random_noise, score_attack, square_attack
from advreg.rules import Adaptive, Shrinking
from advreg.tasks import masks
from advreg.training import Adversary

SIZE, COUNT = 16, 6


def pictures(levels, top, seed=0, count=COUNT):
    """Integers of bright discs on a dark ground, with noise, and their masks."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIZE)
    middle = 4 + 8 * torch.rand(count, 2, 1, 1, generator=g)
    far = (axis[:, None] - middle[:, :1]).square() + (axis - middle[:, 1:]).square()
    mask = (far < 12).float()
    grey = 0.3 + 0.2 * mask + 0.15 * torch.rand(count, 1, SIZE, SIZE, generator=g)
    k = (grey * levels).round()
    return k * top / levels, mask


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 1, 1),
        )
        x, mask = pictures(255, 1.0, seed=1, count=32)
        adam = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(150):
            adam.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(net(x), mask).backward()
            adam.step()
    assert dice((net(x) > 0).float(), mask).mean() > 0.9
    return net.eval()


class OfIntensities(nn.Module):
    """A network of [0, 1] that takes the intensities of 12 bits."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x / 4095)


def through_a_file(x, levels, top):
    """The inputs after they were written as PNG and read again: of 8 bits, or of 16 for 12."""
    read = []
    for image in x:
        k = (image[0].double() * levels / top).round().numpy()
        file = io.BytesIO()
        Image.fromarray(k.astype(np.uint8 if levels == 255 else np.uint16)).save(file, format="PNG")
        read.append(torch.from_numpy(np.array(Image.open(file)).astype(np.int64))[None])
    return torch.stack(read).float() * top / levels


def attacks(threat, objective=J_IND_seg, judge=None):
    def all_of(model, x, y):
        options = {"objective": objective, "threat": threat, "judge": judge}
        for rule in (Steepest(0.2), Adamax(0.2), Adaptive(2.0), Steepest(0.001)):
            yield repr(rule), pgd_attack(model, x, y, rule=rule, steps=15, **options)
        yield "last", pgd_attack(model, x, y, steps=5, keep="last", **options)
        yield "shrinking", pgd_attack(model, x, y, steps=10, schedule=Shrinking(), **options)
        yield "stopped", pgd_attack(model, x, y, steps=9, stop=lambda o, t: dice(o, t) < 0.8, **options)
        start = power_start(model, x, threat=threat)
        yield "power", pgd_attack(model, x, y, steps=5, start=start, random_start=False, **options)
        yield "square", square_attack(model, x, y, queries=20, **options)
        yield "score", score_attack(model, x, y, steps=4, **options)
        yield "noise", random_noise(model, x, y, draws=5, **options)

    return all_of


@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize(("levels", "top"), [(255, 1.0), (4095, 4095.0)])
def test_each_attack_survives_the_file_with_the_value_that_it_reports(trained, norm, levels, top):
    model = trained if top == 1 else OfIntensities(trained)
    x, y = pictures(levels, top)
    assert torch.equal(through_a_file(x, levels, top), x)
    radius = {linf: 4 / 255, l2: 0.4, l1: 4.0}[norm] * top
    threat = Threat(norm, radius, (0.0, top), levels=levels)
    with torch.no_grad():
        clean = J_IND_seg(model(x), y)
    for name, found in attacks(threat)(model, x, y):
        again = through_a_file(found.x, levels, top)
        assert torch.equal(again, found.x), name
        assert threat.contains(found.x, x).all(), name
        with torch.no_grad():
            value = J_IND_seg(model(again), y)
        torch.testing.assert_close(found.value, value, rtol=1e-6, atol=1e-7, msg=name)
        torch.testing.assert_close(found.gain, value - clean, rtol=1e-5, atol=1e-6, msg=name)


def test_automatic_and_out_of_distribution_attacks_and_training_keep_to_the_levels(trained):
    x, y = pictures(255, 1.0)
    threat = Threat(linf, 4 / 255, levels=255)
    worst = auto_attack(trained, x, y, heads={"": masks()}, threat=threat, budget=40)[""]
    assert torch.equal(through_a_file(worst.x, 255, 1.0), worst.x)
    with torch.no_grad():
        torch.testing.assert_close(dice(trained(worst.x), y), worst.value)
    x_out = (255 * uniform(COUNT, 1, SIZE, SIZE)).round() / 255
    between = x + 0.001  # the partner is answered, not changed
    pair = ood_attack(trained, between, x_out, objective=J_OOD_seg, threat=threat, steps=10)
    assert torch.equal(through_a_file(pair.x, 255, 1.0), pair.x)
    with torch.no_grad():
        torch.testing.assert_close(J_OOD_seg(trained(pair.x), trained(between)), pair.value)

    inside = Adversary(J_IND_seg, threat, steps=3)(trained, x, y, Keys(0, torch.arange(COUNT)))
    assert torch.equal(through_a_file(inside, 255, 1.0), inside)


def test_an_evaluation_reports_what_the_files_give(trained):
    x, y = pictures(255, 1.0)
    threat, kept = Threat(linf, 4 / 255, levels=255), []

    def attack(model, x, y, *, seed, index):
        found = pgd_attack(
            model,
            x,
            y,
            objective=J_IND_seg,
            threat=threat,
            steps=8,
            judge=negate(dice),
            seed=seed,
            index=index,
        )
        kept.append(found.x)
        return found

    table = evaluate(trained, [(x, y)], {"": {"dice": dice}}, attack=attack)
    with torch.no_grad():
        own = dice(trained(through_a_file(torch.cat(kept), 255, 1.0)), y)
    torch.testing.assert_close(torch.tensor([row.value for row in table.rows]).float(), own)


@pytest.mark.parametrize(
    ("norm", "radius"), [(linf, 2 / 255), (linf, 4 / 255), (l2, 0.15), (l2, 0.4), (l1, 3.0)]
)
def test_it_is_no_weaker_than_to_attack_and_then_to_round(trained, norm, radius):
    x, y = pictures(255, 1.0, seed=5, count=24)
    threat = Threat(norm, radius, levels=255)
    options = {"objective": J_IND_seg, "steps": 40, "restarts": 2}
    ours = pgd_attack(trained, x, y, threat=threat, **options)
    free = pgd_attack(trained, x, y, threat=threat.relaxed, **options)
    rounded = (x + ((free.x - x) * 255).trunc() / 255).clamp(0, 1)  # inside the ball, as it must be
    rounded = (rounded * 255).round() / 255
    assert threat.contains(rounded, x).all()
    with torch.no_grad():
        naive = J_IND_seg(trained(rounded), y)
    assert ours.value.mean() > naive.mean()
    assert (ours.value >= naive - 1e-3).float().mean() > 0.75


@pytest.mark.parametrize("rule", [Steepest(0.05), Adaptive(2.0)], ids=repr)
def test_steps_shorter_than_a_level_add_up(rule):
    x = torch.full((1, 4), 100 / 255)
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0])
    threat = Threat(linf, 4 / 255, levels=255)
    found = pgd_attack(
        lambda x: (x * weight).sum(1),
        x,
        None,
        objective=lambda output, _: output,
        threat=threat,
        rule=rule,
        steps=40,
        random_start=False,
    )
    torch.testing.assert_close(found.x * 255, 100 + 4 * weight.sign()[None])


def test_an_example_alone_lands_on_the_levels_that_it_lands_on_in_its_batch(trained):
    x, y = pictures(255, 1.0)
    for norm, radius in ((linf, 4 / 255), (l2, 0.4), (l1, 4.0)):
        options = {"objective": J_IND_seg, "threat": Threat(norm, radius, levels=255), "steps": 6}
        whole = pgd_attack(trained, x, y, **options)
        alone = pgd_attack(trained, x[2:3], y[2:3], index=torch.tensor([2]), **options)
        assert (255 * (whole.x[2:3] - alone.x)).abs().mean() < 0.02
