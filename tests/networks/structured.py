"""Targets of many structures, each with that of every example alone, made by hand, and what reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from advreg.objectives import per_example, shared

COUNT = 5
BOXES = (2, 1, 3, 0, 2)  # in each image
NAMES = ["a", "bcd", "ef", "ghijk", "lmno"]


class Cells(nn.Module):
    """Four cells of five numbers each, `(B, 4, 5)`, from `(B, 6)`."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 20, dtype=torch.float64)

    def forward(self, x):
        return torch.tanh(self.layer(x)).unflatten(1, (4, 5))


def cells():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Cells().eval()


def inputs(count=COUNT):
    return 0.2 + 0.6 * numbers(count, 6)


def numbers(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case(NamedTuple):
    """A target.

    Attributes:
        y: Of the batch, as a caller gives it.
        alone: Of each example alone.
        error: What reads it, `(output, target) -> (B,)`.
        mark: What must be said of the target of one example, too.
    """

    y: Any
    alone: list[Any]
    error: Callable[[Any, Any], torch.Tensor]
    mark: Callable[[Any], Any] = lambda value: value


def by_hand(case, x, net=None):
    """The error of each example, one at a time."""
    net = cells() if net is None else net
    with torch.no_grad():
        return torch.cat([case.error(net(x[at : at + 1]), one) for at, one in enumerate(case.alone)])


@dataclass(frozen=True)
class Labels:
    """A target as a dataclass."""

    points: torch.Tensor
    extra: Any


class Pair(NamedTuple):
    """A target as a named tuple."""

    points: torch.Tensor
    extra: Any


# What reads them.


def nearest(output, boxes):
    """How far the boxes of one image are from the nearest cell; cells far from zero count a little."""
    apart = (torch.as_tensor(boxes)[:, None] - output).square().sum(-1).amin(1)
    return apart.sum() / max(1, len(apart)) + 0.1 * output.square().mean()


def listed(output, target, of=lambda one: one):
    return torch.stack([nearest(one, of(own)) for one, own in zip(output, target, strict=True)])


def flat(output, numbers, boxes, each=None):
    """Of flat rows; `each` weighs the images."""
    rows = [torch.as_tensor(boxes)[torch.as_tensor(numbers).flatten() == at] for at in range(len(output))]
    found = torch.stack(list(map(nearest, output, rows)))
    return found if each is None else found * torch.as_tensor(each, dtype=found.dtype)


def off(output, points):
    return (output - torch.as_tensor(points)).square().mean((1, 2))


def weighed(output, points, weights):
    """With weights of the five numbers, whatever the batch."""
    return (output - points).square().mean(1) @ weights / weights.sum()


def lengths(words):
    return torch.tensor([float(len(word)) for word in words], dtype=torch.float64)


# What they are made of.


def boxes(counts=BOXES):
    return list(numbers(sum(counts), 5, seed=2).split(list(counts)))


def whose(counts=BOXES):
    """The number of each row's image."""
    return torch.arange(len(counts), dtype=torch.float64).repeat_interleave(torch.tensor(counts))


def table(counts=BOXES):
    return torch.cat([whose(counts)[:, None], torch.cat(boxes(counts))], 1)


def tables(counts=BOXES):
    """The table of each image alone."""
    return [torch.cat([one.new_zeros(len(one), 1), one], 1) for one in boxes(counts)]


def points():
    return numbers(COUNT, 4, 5, seed=3)


def each(make):
    return [make(at, slice(at, at + 1)) for at in range(COUNT)]


# Lists of one entry for each image.


def list_of_dicts():
    y = [{"boxes": one, "image_id": at} for at, one in enumerate(boxes())]
    return Case(y, [[one] for one in y], lambda o, t: listed(o, t, lambda one: one["boxes"]))


def tuple_of_arrays():
    y = tuple(one.numpy() for one in boxes())
    return Case(y, [(one,) for one in y], listed)


def list_of_numbers():
    y = [0.1, -0.4, 0.7, 0.2, -0.3]
    return Case(y, [[one] for one in y], lambda o, t: (o.mean((1, 2)) - o.new_tensor(t)).square())


def as_many_boxes_as_images(mark=lambda value: value):
    y = list(numbers(COUNT, COUNT, 5, seed=4))
    return Case(mark(y), [[one] for one in y], listed)


def list_in_a_mapping():
    y = {"boxes": boxes(), "points": points()}
    alone = each(lambda at, row: {"boxes": [boxes()[at]], "points": points()[row]})
    return Case(y, alone, lambda o, t: listed(o, t["boxes"]) + off(o, t["points"]))


# Flat rows with an image number.


def table_of_rows(counts=BOXES, mark=lambda value: value, wrap=lambda value: value):
    def error(output, target):
        return flat(output, target[:, 0], target[:, 1:])

    return Case(mark(wrap(table(counts))), list(map(wrap, tables(counts))), error)


def rows_in_disorder():
    found = table_of_rows()
    order = torch.tensor([5, 0, 3, 7, 1, 2, 6, 4])
    return found._replace(y=per_example(found.y[order], number=0))


def numbered_by_column(at, told):
    """A table whose numbers stand in another column."""

    def moved(rows):
        return torch.cat([rows[:, 1:at], rows[:, :1], rows[:, at:]], 1)

    def error(output, target):
        place = at - 1 if at else 0
        rest = [column for column in range(6) if column != place]
        return flat(output, target[:, place], target[:, rest])

    def mark(rows):
        return per_example(rows, number=told)

    return Case(mark(moved(table())), list(map(moved, tables())), error, mark)


def mapping_of_rows(form=lambda value: value, key="batch_idx"):
    y = {key: form(whose()), "bboxes": torch.cat(boxes()), "im_file": NAMES, "split": "val"}
    alone = each(
        lambda at, row: {
            key: form(torch.zeros(BOXES[at])),
            "bboxes": boxes()[at],
            "im_file": NAMES[row],
            "split": "val",
        }
    )
    return Case(y, alone, lambda o, t: flat(o, t[key], t["bboxes"], lengths(t["im_file"])))


def mapping_of_arrays():
    found = mapping_of_rows(lambda value: value.numpy().astype(np.int64))

    def arrays(one):
        return {**one, "bboxes": one["bboxes"].numpy()}

    return Case(arrays(found.y), list(map(arrays, found.alone)), found.error)


def rows_and(extra, alone, read, name="extra"):
    """A mapping of flat rows with something else in it."""
    found = mapping_of_rows()
    return Case(
        {**found.y, name: extra},
        [{**one, name: alone(at, slice(at, at + 1))} for at, one in enumerate(found.alone)],
        lambda o, t: found.error(o, t) * read(t[name]),
    )


def rows_and_images():
    masks = numbers(COUNT, 3, 4, seed=5)
    return rows_and(masks, lambda _, row: masks[row], lambda value: value.mean((1, 2)))


def rows_and_weights(length, mark=lambda value: value):
    weights = numbers(length, seed=6)
    return rows_and(mark(weights), lambda *_: weights, lambda value: value.square().sum() / length)


def rows_and_a_number():
    scale = torch.tensor(0.5, dtype=torch.float64)
    return rows_and(scale, lambda *_: scale, lambda value: value)


def keypoints():
    spots = numbers(sum(BOXES), 3, 5, seed=7)
    own = spots.split(list(BOXES))

    def error(output, target):
        mean = target["keypoints"].mean(1)
        return flat(output, target["batch_idx"], mean)

    alone = [{"batch_idx": torch.zeros(len(one)), "keypoints": one} for one in own]
    return Case({"batch_idx": whose(), "keypoints": spots}, alone, error)


# Nests.


def arrays():
    return Case(points().numpy(), each(lambda _, row: points()[row].numpy()), off)


def strings_beside(form=list):
    y = {"points": points(), "organ": "liver", "names": form(NAMES)}
    alone = each(lambda _, row: {"points": points()[row], "organ": "liver", "names": form(NAMES[row])})
    return Case(y, alone, lambda o, t: off(o, t["points"]) * lengths(t["names"]) * len(t["organ"]))


def nested():
    y = {"a": [Labels(points(), {"k": (points()[:, 0], 2.0)}), "text"], "b": None}
    alone = each(
        lambda _, row: {"a": [Labels(points()[row], {"k": (points()[row, 0], 2.0)}), "text"], "b": None}
    )

    def error(output, target):
        labels = target["a"][0]
        first, factor = labels.extra["k"]
        return off(output, labels.points) + factor * (output[:, 0] - first).abs().mean(1)

    return Case(y, alone, error)


def named_tuple():
    y = Pair(points(), boxes())
    alone = each(lambda at, row: Pair(points()[row], [boxes()[at]]))
    return Case(y, alone, lambda o, t: off(o, t.points) + listed(o, t.extra))


def data_class():
    y = Labels(points(), points()[:, 0, 0].numpy())
    alone = each(lambda _, row: Labels(points()[row], points()[row, 0, 0].numpy()))

    def error(output, target):
        return off(output, target.points) * (1 + torch.as_tensor(target.extra))

    return Case(y, alone, error)


class Scale:
    """Of the caller's own."""

    by = 3.0


def plain_object():
    y = {"points": points(), "scale": Scale()}
    alone = each(lambda _, row: {"points": points()[row], "scale": Scale()})
    return Case(y, alone, lambda o, t: off(o, t["points"]) * t["scale"].by)


# As long as the batch by chance.


def spacing(mark=lambda value: value, wrap=lambda value: value):
    weights = torch.tensor([5.0, 0.7, 0.7, 1.0, 3.0], dtype=torch.float64)
    alone = each(lambda _, row: {"points": points()[row], "spacing": wrap(weights)})
    return Case(
        {"points": points(), "spacing": mark(wrap(weights))},
        alone,
        lambda o, t: weighed(o, t["points"], torch.as_tensor(t["spacing"])),
    )


def anchors(mark=lambda value: value):
    them = numbers(COUNT, 5, seed=8)

    def error(output, target):
        near = (output[:, :, None] - target["anchors"]).square().sum(-1).amin(2).mean(1)
        return near + off(output, target["points"])

    alone = each(lambda _, row: {"points": points()[row], "anchors": them})
    return Case({"points": points(), "anchors": mark(them)}, alone, error)


def class_names(mark=lambda value: value):
    """A list of words that are the same for all."""

    def error(output, target):
        return off(output, target["points"]) * lengths(target["classes"]).sum()

    alone = each(lambda _, row: {"points": points()[row], "classes": NAMES})
    return Case({"points": points(), "classes": mark(list(NAMES))}, alone, error)


CASES = {
    "list of dicts": list_of_dicts,
    "tuple of arrays": tuple_of_arrays,
    "list of numbers": list_of_numbers,
    "as many boxes as images": as_many_boxes_as_images,
    "as many boxes as images, marked": lambda: as_many_boxes_as_images(per_example),
    "list in a mapping": list_in_a_mapping,
    "table": table_of_rows,
    "table, as long as the batch": lambda: table_of_rows((2, 0, 1, 1, 1)),
    "table, marked": lambda: table_of_rows(mark=lambda value: per_example(value, number=0)),
    "table, an array": lambda: table_of_rows(wrap=lambda value: value.numpy()),
    "table, in disorder": rows_in_disorder,
    "table, third column": lambda: numbered_by_column(3, told=2),
    "table, last column": lambda: numbered_by_column(6, told=5),
    "table, last column, from the end": lambda: numbered_by_column(6, told=-1),
    "flat rows": mapping_of_rows,
    "flat rows, a column": lambda: mapping_of_rows(lambda value: value.long()[:, None]),
    "flat rows, arrays": mapping_of_arrays,
    "flat rows, another key": lambda: mapping_of_rows(key="image_idx"),
    "flat rows, images": rows_and_images,
    "flat rows, weights": lambda: rows_and_weights(4),
    "flat rows, weights as long as a part": lambda: rows_and_weights(3),
    "flat rows, weights as long as the batch": lambda: rows_and_weights(COUNT),
    "flat rows, weights as long as the rows": lambda: rows_and_weights(sum(BOXES)),
    "flat rows, weights as long as the batch, marked": lambda: rows_and_weights(COUNT, shared),
    "flat rows, weights as long as the rows, marked": lambda: rows_and_weights(sum(BOXES), shared),
    "flat rows, a number": rows_and_a_number,
    "flat rows, keypoints": keypoints,
    "array": arrays,
    "strings": strings_beside,
    "strings, an array": lambda: strings_beside(np.array),
    "nest": nested,
    "named tuple": named_tuple,
    "dataclass": data_class,
    "object": plain_object,
    "spacing": spacing,
    "spacing, an array": lambda: spacing(wrap=lambda value: value.numpy()),
    "spacing, marked": lambda: spacing(shared),
    "anchors": anchors,
    "anchors, marked": lambda: anchors(shared),
    "class names": class_names,
    "class names, marked": lambda: class_names(shared),
}
