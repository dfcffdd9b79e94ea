"""Adapter around a network: how it is called, what its heads are, and normalisation inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from advreg._core.trees import children, head, replaced
from advreg._core.types import Input, Output

Call: TypeAlias = Callable[[nn.Module, Input], Any] | str
Pick: TypeAlias = Callable[[Any], Any] | str | int
Scale: TypeAlias = float | Sequence[float] | Tensor


class Adapted(nn.Module):
    """Adapter around anybody's network: it takes the inputs that are attacked, and returns heads.

    A module in place of a lambda: parameters, modes, hooks and layers of the network are found in it, so that
    attacks leave it as it was, refuse train mode, and training works. A layer keeps its name,
    `layer="encoder.3"`. With `mean` and `std` inside, inputs, radii and bounds stay in their own units.

    Args:
        net: The network.
        call: How it is called: the keyword of its input, `"pixel_values"`, or a function `(net, x) -> output`
            such as `lambda net, x: net(list(x), return_dict=True)`. By default `net(x)`; a mapping of several
            inputs is given as keywords, `net(**x)`, and a tuple one by one, `net(*x)`.
        output: The heads: a key, field, attribute or place of what the network returns, `"logits"`; a
            function of it; or a mapping from the names of heads to either. By default all of it.
        mean: Subtracted from the input: one number, or one per channel `(C,)`, the first dimension after the
            batch. Of several inputs a mapping by key.
        std: What the difference is divided by, like `mean`.

    Raises:
        TypeError: A network that is no module; a call or output of another kind.
        ValueError: A `std` that is not above zero; a number of channels unlike the input's.
        KeyError: When called: the network's output lacks a head.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from advreg import J_IND_reg, Threat, linf, on, pgd_attack
        >>> from advreg.execution import Adapted
        >>> class Theirs(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Linear(4, 2)
        ...     def forward(self, pixel_values):
        ...         return SimpleNamespace(points=[self.encoder(pixel_values)])
        >>> model = Adapted(Theirs().eval(), call="pixel_values", mean=0.5, std=0.25,
        ...                 output={"points": lambda found: found.points[-1]})
        >>> x, y = torch.rand(8, 4), {"points": torch.zeros(8, 2)}
        >>> result = pgd_attack(model, x, y, objective=on("points", J_IND_reg), threat=Threat(linf, 0.1))
        >>> bool((result.gain > 0).all()), model.get_submodule("encoder")
        (True, Linear(in_features=4, out_features=2, bias=True))
    """

    def __init__(
        self,
        net: nn.Module,
        call: Call | None = None,
        output: Pick | Mapping[str | int, Pick] | None = None,
        *,
        mean: Scale | Mapping[Any, Scale] | None = None,
        std: Scale | Mapping[Any, Scale] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"net must be a torch.nn.Module; got {type(net).__name__}: pass the network itself, and what "
                "stands around it as call=lambda net, x: ..."
            )
        if not (call is None or isinstance(call, str) or callable(call)):
            raise TypeError(
                f"call must be a keyword of the network's forward or a function (net, x); got {call!r:.60}"
            )
        for pick in output.values() if isinstance(output, Mapping) else (output,):
            if not (pick is None or isinstance(pick, (str, int)) or callable(pick)):
                raise TypeError(
                    "output must be a key, field or place, a function of what the network returns, or a "
                    f"mapping of heads to these; got {pick!r:.60}"
                )
        self.net, self.call, self.output = net, call, output
        self.scale = _scale(mean, std)
        self.training = net.training

    def forward(self, x: Input) -> Output:
        """The heads of the network at some inputs."""
        x = x if self.scale is None else self.scale(x)
        match self.call:
            case None if isinstance(x, Mapping):
                found = self.net(**x)
            case None if isinstance(x, tuple):
                found = self.net(*x)
            case None:
                found = self.net(x)
            case str(keyword):
                found = self.net(**{keyword: x})
            case function:
                found = function(self.net, x)
        if isinstance(self.output, Mapping):
            return {name: _picked(found, pick) for name, pick in self.output.items()}
        return found if self.output is None else _picked(found, self.output)

    def get_submodule(self, target: str) -> nn.Module:
        """A layer by its name, as the network itself calls it."""
        first = target.partition(".")[0]
        own = first in ("", *self._modules) and not hasattr(self.net, first)
        return super().get_submodule(target) if own else self.net.get_submodule(target)


class _Normalisation(nn.Module):
    """`(x - mean) / std` of one tensor."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Scale, std: Scale) -> None:
        super().__init__()
        self.register_buffer("mean", _numbers("mean", mean))
        self.register_buffer("std", _numbers("std", std))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be above zero; got {self.std.tolist()}")

    def forward(self, x: Tensor) -> Tensor:
        """The input in the network's units."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != 1 and x.shape[1:2] != value.shape:
                raise ValueError(
                    f"{name} must be one number, or one for each channel, the first dimension after the "
                    f"batch; got {len(value)} for inputs of shape {tuple(x.shape)}"
                )
        mean, std = (value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2)) for value in (self.mean, self.std))
        return (x - mean) / std


class _Several(nn.Module):
    """Several inputs, some of them normalised, by key."""

    def __init__(self, mean: Mapping[Any, Scale], std: Mapping[Any, Scale]) -> None:
        super().__init__()
        self.keys = tuple({**mean, **std})
        self.each = nn.ModuleList(_Normalisation(mean.get(key, 0.0), std.get(key, 1.0)) for key in self.keys)

    def forward(self, x: Input) -> Input:
        """The inputs in the network's units."""
        changed = {key: own(head(x, key, "input")) for key, own in zip(self.keys, self.each, strict=True)}
        return replaced(x, changed)


def _scale(mean: Any, std: Any) -> nn.Module | None:
    """What normalises the inputs; None where nothing does."""
    if mean is None and std is None:
        return None
    if isinstance(mean, Mapping) or isinstance(std, Mapping):
        if not all(one is None or isinstance(one, Mapping) for one in (mean, std)):
            raise TypeError("mean and std must both be by key, {'image': 0.5}, or neither; got one of each")
        made: nn.Module = _Several(mean or {}, std or {})
    else:
        made = _Normalisation(0.0 if mean is None else mean, 1.0 if std is None else std)
    return made.eval()


def _numbers(name: str, value: Scale) -> Tensor:
    """One number, or one per channel, `(C,)`."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype()).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be one number, or one per channel (C,); got {value!r:.60}") from error
    if not len(numbers) or not bool(numbers.isfinite().all()):
        raise ValueError(f"{name} must be finite numbers; got {value!r:.60}")
    return numbers


def _picked(found: Any, pick: Pick) -> Output:
    """A head of what a network returned: by function, key, field, place or attribute."""
    if callable(pick):
        return pick(found)
    if isinstance(pick, str) and children(found) is None and hasattr(found, pick):
        return getattr(found, pick)
    return head(found, pick, "output")
