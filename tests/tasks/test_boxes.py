"""The task of detectors, on a small dense one that is trained in seconds."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advreg import Threat, auto_attack, linf, on
from advreg.metrics import average_precision, box_quality
from advreg.tasks import boxes

SIZE, STRIDE = 24, 4


def scenes(count, seed, objects=(0, 1, 2)):
    """Bright squares, of class 0, and dark ones, of class 1, on grey; with their boxes."""
    g = torch.Generator().manual_seed(seed)
    x, y = 0.5 + 0.05 * torch.randn(count, 1, SIZE, SIZE, generator=g), []
    for n, image in enumerate(x):
        found, labels = [], []
        for place in torch.randperm(4, generator=g)[: objects[n % len(objects)]].tolist():
            top, left = (12 * k + int(torch.randint(0, 4, (), generator=g)) for k in divmod(place, 2))
            side, label = (int(torch.randint(*r, (), generator=g)) for r in ((6, 9), (0, 2)))
            image[0, top : top + side, left : left + side] += 0.3 - 0.6 * label
            found.append([left, top, left + side, top + side])
            labels.append(label)
        y.append({"boxes": torch.tensor(found).reshape(-1, 4).float(), "labels": torch.tensor(labels).long()})
    return x.clamp(0, 1), y


class Detector(nn.Module):
    """A box and three logits, the last of "no object", for each cell of 4 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.code = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=STRIDE), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(32, 7, 3, padding=1)
        cells = torch.stack(torch.meshgrid(*[torch.arange(SIZE // STRIDE)] * 2, indexing="xy"), -1)
        self.register_buffer("centres", STRIDE * (cells.reshape(-1, 2) + 0.5))

    def forward(self, x):
        found = self.head(self.code(x)).flatten(2).transpose(1, 2)
        centre, size = self.centres + 4 * found[..., :2], 8 * found[..., 2:4].exp()
        return torch.cat([centre - size / 2, centre + size / 2], 2), found[..., 4:]


def trained():
    """Each cell in whose middle an object is learns its class and box."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, (x, y) = Detector(), scenes(96, 1)
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        centres = net.centres
        true, place = torch.full((96, len(centres)), 2), torch.zeros(96, len(centres), 4)
        for n, entry in enumerate(y):
            for box, label in zip(entry["boxes"], entry["labels"], strict=True):
                inside = ((centres > box[:2]) & (centres < box[2:])).all(1)
                true[n, inside], place[n, inside] = label, box
        for step in range(240):
            some = slice(step % 3 * 32, step % 3 * 32 + 32)
            found, logits = net(x[some])
            there = true[some] < 2
            loss = nn.functional.cross_entropy(logits.transpose(1, 2), true[some])
            loss = loss + 0.1 * (found - place[some])[there].abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def as_lists(output):
    """The dense output as torchvision gives it: each image's likeliest boxes, here 12."""
    entries = []
    for found, p in zip(output[0], output[1].softmax(2)[..., :-1], strict=True):
        scores, labels = p.max(1)
        keep = scores.topk(12).indices
        entries.append({"boxes": found[keep], "scores": scores[keep], "labels": labels[keep]})
    return entries


@pytest.fixture(scope="module")
def detector():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield trained(), *scenes(6, 2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", ["dense", "lists"])
@pytest.mark.parametrize("metric", ["box_quality", "average_precision"])
def test_objects_vanish_and_appear(detector, metric, form):
    net, x, y = detector
    model = net if form == "dense" else lambda x: as_lists(net(x))
    task = boxes(metric)
    found = auto_attack(model, x, y, heads={"": task}, threat=Threat(linf, 0.1), budget=20)[""]
    assert found.clean.mean() > 0.65
    assert found.value.mean() < 0.3
    empty = torch.tensor([len(entry["labels"]) == 0 for entry in y])
    assert empty.any()
    assert (found.value[empty] < 0.5).all()
    assert (found.value[~empty] < 0.6 * found.clean[~empty]).all()
    again = {"box_quality": box_quality, "average_precision": average_precision}[metric]
    torch.testing.assert_close(found.value, again(model(found.x), y))


def test_alone_is_as_in_the_batch_and_beside_another_head(detector):
    net, x, y = detector
    threat, head = Threat(linf, 0.05), {"boxes": boxes()}

    def both(x):
        return {"boxes": as_lists(net(x)), "mean": x.mean((1, 2, 3))}

    targets = {"boxes": y, "mean": torch.zeros(6)}
    found = auto_attack(both, x, targets, heads=head, threat=threat, budget=8)["boxes"]
    for n in (0, 2):
        alone = auto_attack(
            both,
            x[n : n + 1],
            {"boxes": y[n : n + 1], "mean": torch.zeros(1)},
            heads=head,
            threat=threat,
            budget=8,
            index=torch.tensor([n]),
        )["boxes"]
        torch.testing.assert_close(alone.value, found.value[n : n + 1], rtol=1e-3, atol=1e-3)
    clean = on("boxes", box_quality)(both(x), targets)
    torch.testing.assert_close(found.clean, clean)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("metric", ["box_quality", "average_precision"])
def test_each_member_does_harm(detector, metric, number):
    net, x, y = detector
    task = boxes(metric)
    one = replace(task, members=(task.members[number],))
    found = auto_attack(net, x[1:], y[1:], heads={"": one}, threat=Threat(linf, 0.1), budget=20)[""]
    assert found.value.mean() < 0.7 * found.clean.mean()


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="metric must be"):
        boxes("map")
    with pytest.raises(ValueError, match="iou belongs to"):
        boxes(iou=0.5)
    assert boxes("average_precision", iou=0.75).metric.keywords["iou"] == 0.75
