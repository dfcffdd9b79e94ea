"""Freezing of models: run one without leaving a trace on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advreg._core.modules import BATCH_NORMS
from advreg._core.types import Model


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Run a model with its parameters frozen, and put back everything that running it may change.

    Inside, no parameter requires a gradient, so that a backward pass costs the input's gradient alone.
    Afterwards, also when the body raised, these are bit for bit what they were: `requires_grad` flags,
    `.grad`, buffers, the train or eval mode of each submodule, and torch's global random states. The mode is
    the caller's business: it is not changed, but what would make results depend on the batch is refused.

    Args:
        model: A `torch.nn.Module`; of any other callable only the random states are guarded.

    Raises:
        ValueError: A BatchNorm that normalises by the statistics of the batch.

    Warns:
        UserWarning: The body drew from torch's global generators: dropout, or a layer of noise.

    Example:
        >>> import torch
        >>> from advreg.execution import frozen
        >>> model = torch.nn.Linear(2, 1)
        >>> with frozen(model):
        ...     model.weight.requires_grad
        False
        >>> model.weight.requires_grad
        True
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    _refuse_batch_statistics(model)
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters(recurse=False)]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in modules]
    before = _random_states()
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
        if any(not torch.equal(a, b) for a, b in zip(before, _random_states(), strict=True)):
            warnings.warn(
                "the model or the objective drew random numbers, so its outputs are not a function of its "
                "inputs and results cannot be repeated: call model.eval() to turn dropout off; a network "
                "that is random by design needs its expectation attacked, over several draws",
                stacklevel=3,
            )
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training
        for module, name, buffer, value in buffers:
            if not _same(buffer, value):
                buffer.data.copy_(value)  # unseen by autograd, which may hold it for a backward pass to come
            setattr(module, name, buffer)
        _set_random_states(before)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Run a model in eval mode, and put back the mode of each submodule."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def swapped(modules: Iterable[nn.Module], replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give modules other parameters and buffers for a while, and then their own again, the same objects.

    Args:
        modules: Whose; not those of their submodules.
        replace: From each to what stands in for it; asked once where several modules share one.
    """
    stands: dict[int, Tensor] = {}

    def other(tensor: Tensor) -> Tensor:
        if id(tensor) not in stands:
            stands[id(tensor)] = replace(tensor)
        return stands[id(tensor)]

    own = [
        (module, name, tensor)
        for module in modules
        for found in (module.named_parameters, module.named_buffers)
        for name, tensor in found(recurse=False, remove_duplicate=False)
    ]
    try:
        for module, name, tensor in own:
            setattr(module, name, other(tensor))
        yield
    finally:
        for module, name, tensor in own:
            setattr(module, name, tensor)


def _refuse_batch_statistics(model: Model) -> None:
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
            remedy = (
                "call model.eval() first and model.train() after"
                if module.running_mean is not None
                else "it keeps no running statistics: use track_running_stats=True, or GroupNorm"
            )
            raise ValueError(
                f"expected a model whose examples do not interact; its {type(module).__name__} {name!r} "
                f"normalises by the statistics of the batch, so attacking one changes another: {remedy}"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all entries are the same, zeros of either sign told apart; NaN is never the same."""
    signs = one.is_floating_point()
    return torch.equal(one, other) and not (signs and not torch.equal(one.signbit(), other.signbit()))


def _random_states() -> list[Tensor]:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own gap
    cuda = torch.cuda.get_rng_state_all() if started else []
    return [torch.get_rng_state(), *cuda]


def _set_random_states(states: list[Tensor]) -> None:
    cpu, *cuda = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
