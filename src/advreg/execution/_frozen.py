"""Freezing of models: run one without leaving a trace on it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from advreg._core.chance import differ, random_states, set_random_states
from advreg._core.modules import BATCH_NORMS, modules_of, roots
from advreg._core.types import Model
from advreg.execution._state import State, in_full


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Run a model with its parameters frozen, and put back everything that running it may change.

    Inside, no parameter requires a gradient, so that a backward pass costs the input's gradient alone.
    Afterwards, also when the body raised or was interrupted, these are bit for bit what they were:
    `requires_grad` flags, `.grad`, buffers, the train or eval mode of each submodule, their attributes and
    what lists, sets and dictionaries among them hold, and the random states of torch, numpy and Python. The
    mode is the caller's business: it is not changed, but what would make results depend on the batch is
    refused.

    One thread at a time runs a model: another one waits. Random states are every thread's: they are put back
    in the main thread alone.

    Args:
        model: A `torch.nn.Module`, or a function around some: what it encloses, binds or names is found.

    Raises:
        ValueError: A BatchNorm that normalises by the statistics of the batch; a model that wrote into its
            own parameters, which are too large to be copied and put back.

    Warns:
        UserWarning: The body drew from a global generator: dropout, or a layer of noise.

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
    modules = modules_of(model)
    with _locked(modules):
        _refuse_batch_statistics(modules)
        state, chance = State(modules), random_states()

        @in_full
        def put_back() -> None:
            state.restore()
            if _in_main_thread() and differ(chance, random_states()):
                set_random_states(chance)

        try:
            try:
                state.freeze()
                yield
                if written := state.written():
                    raise ValueError(
                        f"the model wrote into its own parameters while it ran ({', '.join(written[:3])}), "
                        "so it is not the model that it was: write them where it is trained, not in its "
                        "forward, or run it once before, if that leaves them as they are from then on"
                    )
                if _in_main_thread() and differ(chance, random_states()):
                    warnings.warn(
                        "the model or the objective drew random numbers, so its outputs are not a function "
                        "of its inputs and results cannot be repeated: call model.eval() to turn dropout "
                        "off; a network that is random by design needs its expectation attacked, over "
                        "several draws",
                        stacklevel=3,
                    )
            finally:
                put_back()
        finally:  # where an interrupt came between two lines of the clean-up
            put_back()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Run a model in eval mode, and put back the mode of each submodule.

    By the model's own `eval()` and `train()`, so that one that does more in them does it.
    """
    tops = roots(modules_of(model))
    own = [top.training for top in tops]
    modes = [(module, module.training) for top in tops for module in top.modules()]

    @in_full
    def put_back() -> None:
        for top, training in zip(tops, own, strict=True):
            if top.training != training:
                top.train(training)
        for module, training in modes:
            module.training = training

    try:
        try:
            for top in tops:
                top.eval()
            yield
        finally:
            put_back()
    finally:  # as in `frozen`
        put_back()


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

    @in_full
    def give_back() -> None:
        for module, name, tensor in own:
            setattr(module, name, tensor)

    try:
        try:
            for module, name, tensor in own:
                setattr(module, name, other(tensor))
            yield
        finally:
            give_back()
    finally:  # as in `frozen`
        give_back()


_HELD: WeakKeyDictionary[nn.Module, list[tuple[int, object]]] = WeakKeyDictionary()
_CHANGED = Condition()


def is_frozen(model: Model) -> bool:
    """Whether this thread runs all modules of a model frozen already: what it changes is put back later."""
    mine, modules = threading.get_ident(), modules_of(model)
    return bool(modules) and all(mine in (owner for owner, _ in _HELD.get(one, ())) for one in modules)


@contextmanager
def _locked(modules: list[nn.Module]) -> Iterator[None]:
    """Let one thread at a time run a model, or a part of it; all modules are taken at once, or none."""
    mine, token = threading.get_ident(), object()

    def free() -> bool:
        return all(owner == mine for module in modules for owner, _ in _HELD.get(module, ()))

    @in_full
    def release() -> None:
        with _CHANGED:
            for module in modules:
                _HELD[module] = [held for held in _HELD.get(module, ()) if held[1] is not token]
            _CHANGED.notify_all()
        with suppress(RuntimeError):  # what an interrupt at the end of a `with` above left taken
            while True:
                _CHANGED.release()

    try:
        try:
            with _CHANGED:
                _CHANGED.wait_for(free)
                for module in modules:
                    _HELD[module] = [*_HELD.get(module, ()), (mine, token)]
            yield
        finally:
            release()
    finally:  # as in `frozen`
        release()


def _refuse_batch_statistics(modules: list[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
            names = (name for top in roots(modules) for name, one in top.named_modules() if one is module)
            remedy = (
                "call model.eval() first and model.train() after"
                if module.running_mean is not None
                else "it keeps no running statistics: use track_running_stats=True, or GroupNorm"
            )
            raise ValueError(
                f"expected a model whose examples do not interact; its {type(module).__name__} "
                f"{next(names, '')!r} normalises by the statistics of the batch, so attacking one changes "
                f"another: {remedy}"
            )


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
