"""Smoothed predictors: a network under Gaussian noise, to be used, attacked and measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from advreg._core.checks import check_function, check_kind, check_sigma, check_word
from advreg._core.keys import Keys
from advreg._core.trees import head, map_tensors, replaced, tensors
from advreg._core.types import Model, Output, PerExample, Target
from advreg.certificates._noise import fingerprint, with_noise
from advreg.execution import heads as part_for
from advreg.execution import room
from advreg.objectives import at
from advreg.tasks import Task


def smoothed(
    model: Model, sigma: float, samples: int = 100, *, votes: Collection[str | int] = (), seed: int = 0
) -> Model:
    """The smoothed predictor: the median of a network's outputs under Gaussian noise, entry by entry.

    Of a mask's logits the sign of the median is the vote of the draws; outputs that are whole numbers or
    flags, such as labels, are voted for. Of class scores it is not: name such
    heads in `votes`, and get the share of draws in which each class, dimension 1, has the largest score.

    The noise is the same for all inputs, so this is a function of each input alone, and can be attacked as it
    is; see `draws` for attacks on what `certify` speaks of, the median of a metric.

    Args:
        model: As for `pgd_attack`.
        sigma: Deviation of the noise, in units of the input.
        samples: Draws of noise, each one forward pass.
        votes: The heads, "" for the output itself, that are scores of classes.
        seed: Of the noise.

    Returns:
        A `torch.nn.Module` around the model, which is not copied.

    Raises:
        ValueError: A sigma or number of samples that is none; outputs that do not begin with the batch.
        KeyError: A head in `votes` that the output does not have.

    Example:
        >>> import torch
        >>> from advreg.certificates import smoothed
        >>> steps = smoothed(lambda x: (x > 0.5).float(), sigma=0.25, samples=500)
        >>> steps(torch.tensor([[0.2], [0.8]]))
        tensor([[0.],
                [1.]])

    Source:
        Cohen et al., arXiv:1902.02918 (votes); Chiang et al., arXiv:2007.03730 (medians).
    """
    return Smoothed(draws(model, sigma, samples, seed=seed), votes)


def draws(model: Model, sigma: float, samples: int, *, seed: int = 0, fresh: bool = False) -> Model:
    """Draws of Gaussian noise: a network's outputs under each of S, `(B, S, *output)`.

    Attack it through `under_noise`, measure it through `over_draws`: for a fair judgement, on another seed
    than the attack's. Attacks find more with `fresh=True`: eight draws a pass are then 800 over a hundred
    passes, which no perturbation fits.

    Costs S passes, and with a gradient the memory of S: attack few examples at once, by
    `Execution(micro_batch=...)`.

    Args:
        model: As for `pgd_attack`.
        sigma: Deviation of the noise, in units of the input.
        samples: Draws of noise.
        seed: Of the noise.
        fresh: Whether each input has noise of its own, decided by its bits: an attack then meets other noise
            at every step, and yet the same input always gives the same outputs. By default the noise is the
            same for all inputs.

    Raises:
        ValueError: A sigma or number of samples that is none; outputs that do not begin with the batch.

    Example:
        >>> import torch
        >>> from advreg.certificates import draws
        >>> draws(torch.nn.Linear(3, 2), sigma=0.25, samples=10)(torch.rand(4, 3)).shape
        torch.Size([4, 10, 2])

    Source:
        Cohen et al., arXiv:1902.02918; Salman et al., arXiv:1906.04584, section 2.2.
    """
    check_sigma(sigma)
    if samples < 1:
        raise ValueError(f"samples must be 1 or more; got {samples}")
    return Draws(model, sigma, samples, seed, fresh=fresh)


def over_draws(function: PerExample, reduce: Literal["median", "mean"] = "median") -> PerExample:
    """The median, or mean, of a metric over the draws of noise in an output of `draws`, `(B,)`.

    Args:
        function: `(output, target) -> (B,)`, of one draw's output.
        reduce: "median", the lower of the middle two, is what `certify` speaks of; "mean" is smoother, for
            objectives.

    Raises:
        TypeError: Something that is no function.
        ValueError: Another reduction.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> from advreg.certificates import over_draws
        >>> over_draws(J_IND_reg)(torch.tensor([[[0.0], [1.0], [3.0]]]), torch.zeros(1, 1))
        tensor([1.])
    """
    check_function("what over_draws takes", function)
    check_word("reduce", reduce, ("median", "mean"))
    return OverDraws(function, reduce)


def under_noise(task: Task) -> Task:
    """A task for a head of `draws`: its metric's median over the draws, attacked by objectives' means.

    `auto_attack(draws(model, sigma, 16), x, y, heads={"mask": under_noise(masks())}, ...)` looks from above
    for what `certify` bounds from below: it follows the expectation over the noise.

    Args:
        task: The task of the head of one draw.

    Example:
        >>> from advreg.certificates import under_noise
        >>> from advreg.tasks import masks
        >>> under_noise(masks()).worse
        'lower'

    Source:
        Athalye et al., arXiv:1802.00420, section 4.1; Salman et al., arXiv:1906.04584, section 2.2.
    """
    check_kind("task", task, Task, "masks()")
    members = tuple(replace(one, objective=over_draws(one.objective, "mean")) for one in task.members)
    return replace(task, metric=over_draws(task.metric), members=members)


@dataclass(frozen=True)
class OverDraws:
    """See `over_draws`."""

    function: PerExample
    reduce: Literal["median", "mean"]

    def at(self, share: float) -> OverDraws:
        """The function after this share of the steps."""
        return replace(self, function=at(self.function, share))

    def __call__(self, output: Output, target: Target) -> Tensor:
        """The value, `(B,)`."""
        count = next(tensors(output)).shape[1]
        each = [
            self.function(map_tensors(itemgetter((slice(None), draw)), output), target)
            for draw in range(count)
        ]
        values = torch.stack(each, 1)
        return values.mean(1) if self.reduce == "mean" else torch.median(values, 1).values


class Draws(nn.Module):
    """See `draws`. A module, so that the model's parameters and layers are found in it."""

    def __init__(self, model: Model, sigma: float, samples: int, seed: int, *, fresh: bool) -> None:
        super().__init__()
        self.model, self.sigma, self.samples, self.seed, self.fresh = model, sigma, samples, seed, fresh
        self.training = getattr(model, "training", False)

    def train(self, mode: bool = True) -> Draws:
        """Its own mode; that of the model is the model's."""
        self.training = mode
        return self

    def forward(self, x: Tensor, heads: Iterable[str | int] | None = None) -> Output:
        """All draws: in one pass, or without a gradient in as many as fit."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"noise is added to one tensor; got inputs of type {type(x).__name__}: wrap the model in a "
                "function of the one that is perturbed, lambda image: model({**others, 'image': image})"
            )
        # with a gradient all draws are kept anyway; without, only their outputs need be
        together = self.samples if torch.is_grad_enabled() else max(1, room(x) // max(1, len(x)))
        starts = range(0, self.samples, together)
        keys = Keys(self.seed, fingerprint(x) if self.fresh else torch.zeros(1, dtype=torch.int64))
        each = [keys.fold_in(draw) for draw in range(self.samples)]
        parts = [self._drawn(x, each[start : start + together], heads) for start in starts]
        alike = zip(*map(tensors, parts), strict=True)
        return map_tensors(lambda _: torch.cat(next(alike), 1), parts[0])

    def _drawn(self, x: Tensor, draws: Sequence[Keys], heads: Iterable[str | int] | None) -> Output:
        """The outputs under some of the draws, in one pass."""
        like = x if self.fresh else x[:1]
        normal = torch.stack([keys.fine_normal(like) for keys in draws], 1)
        normal = normal.expand(len(x), *normal.shape[1:]).flatten(0, 1)
        several = with_noise(x.repeat_interleave(len(draws), 0), normal, self.sigma)
        output = part_for(self.model, heads)(several)
        return map_tensors(lambda tensor: self._apart(tensor, len(x), len(draws)), output)

    @staticmethod
    def _apart(tensor: Tensor, count: int, samples: int) -> Tensor:
        if tensor.shape[:1] != (count * samples,):
            raise ValueError(
                f"outputs under noise must begin with the batch, here {count * samples} examples and draws; "
                f"got shape {tuple(tensor.shape)}: leave what all examples share out of the output"
            )
        return tensor.reshape(count, samples, *tensor.shape[1:])


class Smoothed(nn.Module):
    """See `smoothed`."""

    def __init__(self, drawn: Model, votes: Collection[str | int]) -> None:
        super().__init__()
        self.drawn, self.votes = drawn, (votes,) if isinstance(votes, (str, int)) else tuple(votes)
        self.training = getattr(drawn, "training", False)

    def train(self, mode: bool = True) -> Smoothed:
        """Its own mode; that of the model is the model's."""
        self.training = mode
        return self

    def forward(self, x: Tensor, heads: Iterable[str | int] | None = None) -> Output:
        """Medians, and of some heads votes."""
        found = part_for(self.drawn, heads)(x)
        if "" in self.votes:
            return _shares(found)
        medians = map_tensors(_middle, found)
        read = self.votes if heads is None else [key for key in self.votes if key in heads]
        held = {key: _shares(head(found, key, "output")) for key in read}
        return replaced(medians, held) if held else medians


def _middle(drawn: Tensor) -> Tensor:
    """Of draws `(B, S, ...)` the median of numbers, and of labels and flags, which have none, the vote."""
    if drawn.is_floating_point():
        return torch.median(drawn, 1).values
    return torch.mode(drawn.long(), 1).values.to(drawn.dtype)


def _shares(scores: Tensor) -> Tensor:
    """Of class scores `(B, S, C, ...)` the share of draws that are for each class, `(B, C, ...)`."""
    votes = one_hot(scores.argmax(2), scores.shape[2]).to(scores.dtype)
    return votes.mean(1).movedim(-1, 1)
