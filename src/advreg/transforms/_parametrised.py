"""Model of an image and the parameters of its transform, so that an attack moves the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from advreg._core.modules import modules_of, roots
from advreg._core.trees import head, replaced
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

    A model of two inputs, `inputs(x)`, of which the threat, `threat(norm, radius)`, names the parameters; the
    image goes along with them. Any attack takes both as they are.

    Outputs that move with a deformation are brought back to the image before they are compared, so that the
    target stays what it is: `moves` names these heads, "points" in pixels (x, y), or "image" for maps such as
    logits of a mask.

    Args:
        model: What is attacked, of images `(B, *input)`.
        transform: `Gamma()`, `BiasField()`, `Deformation()`, or a `Transform` of your own.
        moves: By head, what moves; "" for a model that returns the head itself. With a `Deformation` alone.

    Raises:
        TypeError: A transform without its methods; moves of a transform that leaves places as they are.
        ValueError: A move of another kind.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, linf, pgd_attack
        >>> from advreg.transforms import Gamma, Parametrised
        >>> x, y = torch.full((2, 1, 4, 4), 0.25), torch.zeros(2, 1)
        >>> both = Parametrised(lambda x: x.mean((2, 3)), Gamma())
        >>> found = pgd_attack(both, both.inputs(x), y, objective=J_IND_reg, threat=both.threat(linf, 0.7))
        >>> found.x["parameters"]
        tensor([[-0.7000],
                [-0.7000]])
        >>> print(both.image(found.x)[0, 0, 0].numpy().round(3))
        [0.502 0.502 0.502 0.502]

    Source:
        Chen et al., Realistic adversarial data augmentation for MR image segmentation, arXiv:2006.13322 (bias
        fields); Kanbak et al., Geometric robustness of deep networks, arXiv:1711.09115 (deformations).
    """

    def __init__(
        self, model: Model, transform: Transform, moves: Mapping[str | int, Move] | None = None
    ) -> None:
        super().__init__()
        if isinstance(transform, type) or not isinstance(transform, Transform):
            came = f"the class {transform.__name__}" if isinstance(transform, type) else f"{transform!r:.60}"
            raise TypeError(
                f"transform must have parameters(x) and be called with (x, p); got {came}: Gamma()"
            )
        self.model, self.transform, self.moves = model, transform, dict(moves or {})
        if not isinstance(model, nn.Module):  # a function around modules, which are seen here
            self.inside = nn.ModuleList(roots(modules_of(model)))
        for key, move in self.moves.items():
            if move not in ("points", "image"):
                raise ValueError(f"head {key!r} must move as 'points' or 'image'; got {move!r}")
            if not isinstance(transform, Deformation):
                raise TypeError(
                    f"heads move with a Deformation; got {transform!r:.60} and moves of {key!r}: "
                    "leave moves out"
                )

    def inputs(self, x: Tensor, p: Tensor | None = None) -> dict[str, Tensor]:
        """The inputs of an attack, images and their parameters, by default zeros."""
        return {"image": x, "parameters": self.transform.parameters(x) if p is None else p.to(x)}

    def threat(
        self, norm: Norm, radius: float | Tensor, scale: Tensor | None = None
    ) -> dict[str | int, Threat]:
        """The threat on the parameters, a ball around zero; `scale` is `(P,)`, see `advreg.Threat`."""
        return {"parameters": Threat(norm, radius, None, scale=scale)}

    def image(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The images as the model sees them, transformed, `(B, *input)`."""
        return self.transform(inputs["image"], inputs["parameters"])

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """The model's output on the transformed images, with heads that move brought back."""
        output = self.model(self.image(inputs))
        if not self.moves:
            return output
        size, p = inputs["image"].shape[2:], inputs["parameters"]
        if set(self.moves) == {""}:
            return self._undone(output, p, self.moves[""], size)
        held = {key: head(output, key, "output") for key in self.moves}
        moved = {key: self._undone(held[key], p, move, size) for key, move in self.moves.items()}
        return replaced(output, moved)

    def _undone(self, output: Tensor, p: Tensor, move: Move, size: Sequence[int]) -> Tensor:
        """A head of the transformed image brought back to the image."""
        assert isinstance(self.transform, Deformation)
        return (
            self.transform.back(output, p, size) if move == "points" else self.transform.unwarped(output, p)
        )
