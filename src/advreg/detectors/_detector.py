"""Contract of detectors, and the adversary who knows of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from advreg._core.checks import one_per_example
from advreg._core.types import Model, Output, PerExample, Target
from advreg.detectors._features import Inputs, inputs
from advreg.objectives import on, weighted

_BOTH = ("output", "score")


@runtime_checkable
class Detector(Protocol):
    """Detector: tells strange inputs from ordinary ones. A user's own is any object with this method.

    An attack that knows of the detector needs its gradient. One that reads its score out of its network's own
    pass may also offer that `model` and `with_output(x) -> (model(x), score)`: `aware` then runs it once, not
    twice.
    """

    def score(self, x: Tensor) -> Tensor:
        """Score of each input, larger for stranger ones, `(B,)`; differentiable in `x` where possible."""
        ...


def scores(detector: Detector, batches: Inputs) -> Tensor:
    """The scores of all examples of all batches, `(N,)`, without a gradient.

    Args:
        detector: Any detector, fitted.
        batches: An iterable of inputs `(B, *input)`, or of `(x, y, ...)`.

    Returns:
        `(N,)`, in the order of the batches, on their device.

    Raises:
        TypeError: A single tensor in place of batches; a detector that does not return `(B,)`.
        ValueError: No batches.

    Example:
        >>> import torch
        >>> from advreg.detectors import ReconstructionDetector, scores
        >>> detector = ReconstructionDetector(lambda x: (x.clamp(max=0.5),), head=0)
        >>> scores(detector, [torch.tensor([[0.2], [0.9]]), torch.tensor([[1.0]])])
        tensor([0.0000, 0.4000, 0.5000])
    """
    with torch.no_grad():
        found = [one_per_example(detector.score(x), len(x), "a detector's score") for x in inputs(batches)]
    if not found:
        raise ValueError("batches must hold inputs; got none")
    return torch.cat(found)


def aware(model: Model, detector: Detector) -> Model:
    """A model that returns `{"output": model(x), "score": detector.score(x)}`, so that attacks reach both.

    Attack it with `lower_score(objective)`. Where the detector reads `model` itself, the network runs once
    for both. What an objective does not read is not run, see `advreg.execution.heads`.

    Args:
        model: The model that the adversary wants to fool.
        detector: The detector that guards it; its score must be differentiable for the attack to follow it.

    Returns:
        A `torch.nn.Module` around both, in whatever mode the model is in; neither is copied.

    Raises:
        TypeError: When called: a detector that does not return `(B,)`.
        ValueError: When attacked: a score without a gradient.

    Example:
        >>> import torch
        >>> from advreg import Adamax, J_OOD_reg, Threat, l2, on, ood_attack
        >>> from advreg.detectors import ReconstructionDetector, aware, lower_score
        >>> model = lambda x: {"sum": x.sum(1, keepdim=True), "reconstruction": x.clamp(0.2, 0.6)}
        >>> detector = ReconstructionDetector(model)
        >>> x_in, x_out = torch.full((1, 4), 0.5), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        >>> attack = ood_attack(aware(model, detector), x_in, x_out, threat=Threat(l2, 0.5),
        ...                     objective=lower_score(on("sum", J_OOD_reg)), rule=Adamax(0.1))
        >>> bool(detector.score(attack.x) < detector.score(x_out))
        True

    Source:
        Carlini and Wagner, arXiv:1705.07263; Tramer et al., arXiv:2002.08347.
    """
    return _Aware(model, detector)


def lower_score(objective: PerExample, weight: float = 1.0) -> PerExample:
    """`objective(output, target) - weight * score`: what the adversary of an `aware` model maximises.

    Objective and score have units. Try several weights: one that is too large never fools the model, one that
    is too small never fools the detector.

    Args:
        objective: What grows as the model is fooled, of its own output and target.
        weight: How much a unit of the score counts.

    Returns:
        An objective of `{"output": ..., "score": ...}`; its target is one too, as `ood_attack` passes it.

    Raises:
        ValueError: A negative weight.

    Example:
        >>> import torch
        >>> from advreg import J_OOD_reg
        >>> from advreg.detectors import lower_score
        >>> output = {"output": torch.zeros(1, 2), "score": torch.tensor([3.0])}
        >>> lower_score(J_OOD_reg, weight=2.0)(output, output)
        tensor([-6.])
    """
    if weight < 0:
        raise ValueError(f"weight must be 0 or more, since the adversary lowers the score; got {weight}")
    return weighted((1.0, on("output", objective)), (-weight, on("score", score_of)))


def score_of(output: Tensor, target: Target) -> Tensor:
    """The score of an `aware` model as an objective, `(B,)`: `on("score", score_of)`. No target counts.

    Example:
        >>> import torch
        >>> from advreg import negate, on
        >>> from advreg.detectors import score_of
        >>> output = {"output": None, "score": torch.tensor([3.0])}
        >>> negate(on("score", score_of))(output, output)
        tensor([-3.])
    """
    del target
    return output


class _Aware(nn.Module):
    """See `aware`. A module, so that `frozen` finds every module behind it."""

    def __init__(self, model: Model, detector: Detector) -> None:
        super().__init__()
        self.model = model
        self.detector = detector
        held = [thing for value in getattr(detector, "__dict__", {}).values() for thing in _listed(value)]
        self.guarded = nn.ModuleList(thing for thing in held if isinstance(thing, nn.Module))
        self.training = self.guarded.training = bool(getattr(model, "training", False))

    def forward(self, x: Tensor, heads: Collection[str] = _BOTH) -> dict[str, Output]:
        shared = getattr(self.detector, "model", None) is self.model and hasattr(self.detector, "with_output")
        found: dict[str, Output] = {}
        if shared and set(heads) == set(_BOTH):
            found["output"], found["score"] = self.detector.with_output(x)  # type: ignore[attr-defined]  # asked
        elif "output" in heads:
            found["output"] = self.model(x)
        if "score" in heads and "score" not in found:
            found["score"] = self.detector.score(x)
        if "score" in found:
            one_per_example(found["score"], len(x), "a detector's score")
            if x.requires_grad and torch.is_grad_enabled() and not found["score"].requires_grad:
                raise ValueError(
                    f"the score of the {type(self.detector).__name__} has no gradient, so an attack could "
                    "not lower it and would prove nothing: return it without detach() or no_grad(), or give "
                    "the attack a detector like it that is differentiable"
                )
        return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
