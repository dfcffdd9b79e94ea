"""Expectation of models that are random by design."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advreg._core.trees import map_tensors, tensors
from advreg._core.types import Model, Output


def expectation(model: Model, draws: int, seed: int = 0) -> Model:
    """A model that is random by design as a function: the mean of its outputs over some draws.

    Attack this in place of the model itself, so that gradients point to what is worse on average. Draw k
    begins with torch's global generators at a seed made of `seed` and k, and they are put back after, so the
    same batch gives the same outputs, and attacks neither warn nor chase one lucky draw. A layer's noise
    depends on the shape of the batch, so results for another batching differ. Report what is found on other
    draws, `expectation(model, draws, seed + 1)`: with few draws an attack fits them.

    Costs `draws` passes for one, and their memory.

    Args:
        model: A model that draws from torch's global generators.
        draws: How many.
        seed: Of the draws.

    Returns:
        A model whose floating-point outputs are means; other outputs are the first draw's.

    Raises:
        ValueError: Draws of less than 1.

    Example:
        >>> import torch
        >>> from advreg.execution import expectation
        >>> noisy = lambda x: x + torch.randn_like(x)
        >>> steady = expectation(noisy, draws=400)
        >>> x = torch.zeros(1, 2)
        >>> bool((steady(x) == steady(x)).all()), bool((steady(x).abs() < 0.2).all())
        (True, True)

    Source:
        Athalye et al., Obfuscated gradients give a false sense of security, arXiv:1802.00420, section 4.1.
    """
    if draws < 1:
        raise ValueError(f"expected draws of 1 or more; got {draws}")
    return Expectation(model, draws, seed).train(getattr(model, "training", False))


class Expectation(nn.Module):
    """The mean over draws; a module, so that the model's parameters and layers are found in it.

    An example's output depends on the shape of its batch, since the draws do; so it is not checked that it is
    the same alone.
    """

    def __init__(self, model: Model, draws: int, seed: int) -> None:
        super().__init__()
        self.model, self.draws, self.seed = model, draws, seed

    def train(self, mode: bool = True) -> Expectation:
        """Its own mode; that of the model is the model's."""
        self.training = mode
        return self

    def forward(self, x: Tensor, heads: Sequence[str | int] | None = None) -> Output:
        """The mean of the outputs: of all heads, since a layer left out would change the next one's draw."""
        del heads
        outputs = []
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            for draw in range(self.draws):
                torch.manual_seed((self.seed * 1_000_003 + draw) % 2**63)
                outputs.append(self.model(x))
        columns = zip(*map(tensors, outputs), strict=True)

        def mean(_: Tensor) -> Tensor:
            column = next(columns)
            return torch.stack(column).mean(0) if column[0].is_floating_point() else column[0]

        return map_tensors(mean, outputs[0])
