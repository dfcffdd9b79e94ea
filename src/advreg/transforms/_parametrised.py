"""Model of an image and the parameters of its transform, so that an attack moves the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from advreg._core.modules import modules_of, roots
from advreg._core.trees import children, rebuilt
from advreg._core.types import Model, Output
from advreg.threats import Norm, Threat
from advreg.transforms._deformation import Deformation

Move: TypeAlias = Literal["points", "image"]
"""Kinds of heads that move with a deformation: points in pixels, or maps with the image's axes."""


@runtime_checkable
class Transform(Protocol):
    """Transform of images by parameters, one row for each image, that changes nothing at zero.

    Differentiable in the parameters. A user's own is any object with these two methods.
    """

    def parameters(self, x: Tensor) -> Tensor:
        """The parameters that change nothing, zeros `(B, P)`."""
        ...

    def __call__(self, x: Tensor, p: Tensor) -> Tensor:
        """The images, `(B, *input)`, each transformed by its parameters, `(B, P)`."""
        ...


class Parametrised(nn.Module):
    """Model on transformed images, `model(transform(x, p))`, whose parameters p an attack moves.

    An image and its parameters are one row, `inputs(x)`, so that every attack cuts and repeats them together;
    the threat, `threat(norm, radius)`, lets the parameters alone change. Any attack takes both as they are:

    Outputs that move with a deformation are brought back to the image before they are compared, so that the
    target stays what it is: `moves` names these heads, "points" in pixels (x, y), or "image" for maps such as
    logits of a mask.

    Args:
        model: What is attacked, of images `(B, *shape)`.
        transform: `Gamma()`, `BiasField()`, `Deformation()`, or a `Transform` of your own.
        shape: The shape of one image, `x.shape[1:]`.
        moves: By head, what moves; "" for a model that returns the head itself. With a `Deformation` alone.

    Raises:
        TypeError: A transform without its methods; moves of a transform that leaves places as they are.
        ValueError: A move of another kind.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, linf, pgd_attack
        >>> from advreg.transforms import Gamma, Parametrised
        >>> x, y = torch.full((2, 1, 4, 4), 0.25), torch.zeros(2, 1)
        >>> both = Parametrised(lambda x: x.mean((2, 3)), Gamma(), x.shape[1:])
        >>> found = pgd_attack(both, both.inputs(x), y, objective=J_IND_reg, threat=both.threat(linf, 0.7))
        >>> both.parameters_of(found.x)
        tensor([[-0.7000],
                [-0.7000]])
        >>> print(both.image(found.x)[0, 0, 0].numpy().round(3))
        [0.502 0.502 0.502 0.502]

    Source:
        Chen et al., Realistic adversarial data augmentation for MR image segmentation, arXiv:2006.13322 (bias
        fields); Kanbak et al., Geometric robustness of deep networks, arXiv:1711.09115 (deformations).
    """

    def __init__(
        self,
        model: Model,
        transform: Transform,
        shape: Sequence[int],
        moves: Mapping[str | int, Move] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(transform, type) or not isinstance(transform, Transform):
            came = f"the class {transform.__name__}" if isinstance(transform, type) else f"{transform!r:.60}"
            raise TypeError(
                f"transform must have parameters(x) and be called with (x, p); got {came}: Gamma()"
            )
        self.model, self.transform, self.shape, self.moves = model, transform, tuple(shape), dict(moves or {})
        if not isinstance(model, nn.Module):  # a function around modules, which are seen here
            self.inside = nn.ModuleList(roots(modules_of(model)))
        self.applied, self.undone = _Applied(transform), _Undone(transform, self.shape[1:])
        for head, move in self.moves.items():
            if move not in ("points", "image"):
                raise ValueError(f"head {head!r} must move as 'points' or 'image'; got {move!r}")
            if not isinstance(transform, Deformation):
                raise TypeError(
                    f"heads move with a Deformation; got {transform!r:.60} and moves of {head!r}: "
                    "leave moves out"
                )
        self.count = transform.parameters(torch.zeros(1, *self.shape)).shape[1]

    def inputs(self, x: Tensor, p: Tensor | None = None) -> Tensor:
        """Rows of parameters and image, `(B, P + n)`: the inputs of an attack; by default with zeros.

        Raises:
            ValueError: Images of another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"expected images (B, {', '.join(map(str, self.shape))}); got {tuple(x.shape)}")
        p = self.transform.parameters(x) if p is None else p.to(x)
        return torch.cat([p, x.flatten(1)], 1)

    def threat(self, norm: Norm, radius: float | Tensor, scale: Tensor | None = None) -> Threat:
        """The threat on the parameters: a ball around zero; `scale` is `(P,)`, see `advreg.Threat`."""
        mask = torch.arange(self.count + math.prod(self.shape)) < self.count
        if scale is not None:
            scale = torch.cat([scale, scale.new_zeros(math.prod(self.shape))])
        return Threat(norm, radius, None, mask, scale)

    def parameters_of(self, rows: Tensor) -> Tensor:
        """The parameters of inputs, `(B, P)`."""
        return rows[:, : self.count]

    def image(self, rows: Tensor) -> Tensor:
        """The images as the model sees them, transformed, `(B, *shape)`."""
        moved: Tensor = self.applied(rows[:, self.count :].reshape(-1, *self.shape), self.parameters_of(rows))
        return moved

    def forward(self, rows: Tensor) -> Output:
        """The model's output on the transformed images, with heads that move brought back."""
        output = self.model(self.image(rows))
        if not self.moves:
            return output
        p = self.parameters_of(rows)
        if set(self.moves) == {""}:
            return self.undone(output, p, self.moves[""])
        held = children(output) or {}
        missing = [head for head in self.moves if head not in held]
        if missing:
            raise KeyError(f"the output has no head {missing[0]!r} to move; it has {list(held)}")
        moved = {head: self.undone(held[head], p, move) for head, move in self.moves.items()}
        return rebuilt(output, {**held, **moved})


class _Applied(nn.Module):
    """A transform as a module, so that an attack that leaves out what is not read sees one thing in it."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        return self.transform(x, p)


class _Undone(nn.Module):
    """Heads of the transformed image brought back to the image."""

    def __init__(self, transform: Transform, size: Sequence[int]) -> None:
        super().__init__()
        self.transform, self.size = transform, tuple(size)

    def forward(self, head: Tensor, p: Tensor, move: Move) -> Tensor:
        assert isinstance(self.transform, Deformation)
        if move == "points":
            return self.transform.back(head, p, self.size)
        return self.transform.unwarped(head, p)
