"""Detection by the disagreement of several networks, or of one network thinned by its dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations, count

import torch
from torch import Tensor, nn

from advreg._core.checks import one_per_example
from advreg._core.keys import Keys
from advreg._core.modules import DROPOUTS
from advreg._core.types import Model, Output, PerExample
from advreg.detectors._features import at_rest, finite
from advreg.execution import heads
from advreg.objectives import heads_read

_DROPS_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True, eq=False)
class DisagreementDetector:
    """Disagreement of several networks: the mean distance of their answers over all pairs. Nothing is fitted.

    The networks are an ensemble, or one network with dropout, of which `samples` thinned ones are drawn. They
    are the same for every example and every call: the score is a function of the input, whatever the batch.

    Args:
        models: Two models or more that were trained apart; or one with dropout modules (dropout that a module
            does by itself, such as that of `torch.nn.MultiheadAttention`, stays off).
        distance: `(output, output) -> (B,)`, such as `on("contour", J_IND_reg)`.
        samples: How many thinned networks; for one model with dropout.
        seed: Of the thinning.

    Raises:
        ValueError: One model without dropout; fewer than two models or samples; when called, not finite.
        TypeError: When called: a distance that does not return `(B,)`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> from advreg.detectors import DisagreementDetector
        >>> models = [lambda x, power=power: x**power for power in (1, 2)]
        >>> DisagreementDetector(models, J_IND_reg).score(torch.tensor([[1.0], [3.0]]))
        tensor([ 0., 36.])

    Source:
        Lakshminarayanan et al., arXiv:1612.01474; Gal and Ghahramani, arXiv:1506.02142.
    """

    models: Model | Sequence[Model]
    distance: PerExample
    samples: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self._ensemble()) == 1:
            dropouts(self._ensemble()[0])
            if self.samples < 2:
                raise ValueError(f"disagreement needs at least 2 samples; got {self.samples}")
        elif not self._ensemble():
            raise ValueError("disagreement needs at least 2 models, or one with dropout; got none")

    def score(self, x: Tensor) -> Tensor:
        """The mean distance between two networks' outputs, `(B,)`."""
        members = self._ensemble()
        with at_rest(*members):
            parts = [heads(model, heads_read(self.distance)) for model in members]
            outputs = (
                [part(x.clone()) for part in parts] if len(parts) > 1 else list(self._thinned(parts[0], x))
            )
            try:
                apart = [
                    one_per_example(self.distance(a, b), len(x), "a distance")
                    for a, b in combinations(outputs, 2)
                ]
            except ValueError as error:  # an output with NaN, as the target of another
                raise ValueError(f"the distance between outputs cannot be told: {error}") from error
        return finite(torch.stack(apart).mean(0), "the distance between outputs")

    def _thinned(self, part: Model, x: Tensor) -> Iterator[Output]:
        keys = Keys(self.seed, torch.zeros(1, dtype=torch.int64))
        for sample in range(self.samples):
            with thinned(self._ensemble()[0], keys.fold_in(sample)):
                yield part(x.clone())

    def _ensemble(self) -> list[Model]:
        several = isinstance(self.models, (list, tuple, nn.ModuleList))
        return list(self.models) if several else [self.models]  # type: ignore[arg-type,list-item]  # one of two


def dropouts(model: Model) -> list[nn.Module]:
    """The dropout modules of a model; those that cannot be thinned are refused.

    Raises:
        ValueError: No dropout; one that fills in what it drops (AlphaDropout).
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    found = [module for module in modules if isinstance(module, DROPOUTS)]
    other = [
        type(module).__name__ for module in found if not isinstance(module, (nn.Dropout, *_DROPS_CHANNELS))
    ]
    if not found or other:
        raise ValueError(
            "disagreement within one model needs its dropout modules (torch.nn.Dropout, Dropout1d, 2d, 3d); "
            f"got {', '.join(other) or 'none'}: pass several models that were trained apart, [model, ...]"
        )
    return list(found)


@contextmanager
def thinned(model: Model, keys: Keys) -> Iterator[None]:
    """Run a model with its dropout on, as one fixed network: the same for every example and every call.

    Chance comes from `keys`, of one example; torch's global generators and the modules' modes are left alone.
    """
    with ExitStack() as stack:
        for number, module in enumerate(dropouts(model)):
            drop = partial(_drop, keys=keys.fold_in(number), calls=count())
            stack.callback(module.register_forward_hook(drop).remove)
        yield


def _drop(
    module: nn.Module, args: tuple[Tensor, ...], out: Tensor, *, keys: Keys, calls: Iterator[int]
) -> Tensor:
    x = args[0]
    whole = x.shape[1:] if isinstance(module, nn.Dropout) else (*x.shape[1:2], *(1 for _ in x.shape[2:]))
    draw = keys.fold_in(next(calls)).uniform(x.new_empty((1, *whole), dtype=torch.float32))
    p: float = module.p  # type: ignore[assignment]  # of a dropout module a number
    kept = (draw >= p).to(out.dtype)
    return out * kept / (1 - p) if p < 1 else out * kept
