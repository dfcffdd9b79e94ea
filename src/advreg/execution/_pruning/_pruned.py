"""Pruning of models: only the part that some heads need, found in the forward."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from advreg._core.modules import compiled, hook_handles, hooks, of_torch, watched_globally
from advreg._core.trees import head, tensors
from advreg._core.types import Input, Model, Output
from advreg.execution._frozen import frozen
from advreg.execution._heads import heads
from advreg.execution._pruning._cutting import Forward, cut
from advreg.execution._pruning._tracing import Elsewhere, Traced, UntraceableError, ambient
from advreg.execution._pruning._writes import differing, marks
from advreg.execution._state import restored

MOST = 32  # cuts kept per model


def pruned(model: Model, keys: Iterable[str | int] | None, example: Input) -> Model:
    """The part of a model that some of its heads need.

    A model whose forward takes `heads=` says itself how (see `advreg.execution.heads`). Of any other
    `torch.nn.Module` the forward is traced, and what none of the heads needs is left out. Modules, parameters
    and buffers are the model's own, looked up at each call, and their hooks run. What shows elsewhere than
    in the output stays: modules with hooks, modules that write their attributes, buffers in training mode,
    writes in place to what is needed. Where the forward branches, the branch is looked at in each call, and
    the whole model runs on inputs that go the other way.

    The first call for a model checks the part against the whole, on two examples: the heads and the input
    gradient of a random projection of them. Later calls look it up; a change of the model's modules, hooks,
    modes, or attributes that are numbers, strings or flags has it made again. The model is left as it was.

    Args:
        model: Any model.
        keys: The heads that will be read: keys, fields or places; None for all.
        example: Inputs such as will follow, `(B, *input)`; their number may change. A model of several
            inputs is not cut, unless it says itself how.

    Returns:
        A callable whose output is a dict of these heads, `{key: head}`. The model itself where nothing can be
        left out, or where it is no module or a compiled, scripted or data-parallel one.

    Warns:
        UserWarning: Once per model: something might be left out, but cannot safely be. The model itself is
            returned.

    Example:
        >>> import torch
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.contour, self.mask = torch.nn.Linear(4, 2), torch.nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return {"contour": self.contour(x), "mask": self.mask(x)}
        >>> part = pruned(Net(), ["contour"], torch.rand(8, 4))
        >>> {key: tuple(value.shape) for key, value in part(torch.rand(3, 4)).items()}
        {'contour': (3, 2)}

    Source:
        Reed et al., torch.fx: practical program capture and transformation for deep learning in Python,
        arXiv:2112.08429.
    """
    if keys is None:
        return model
    wanted = tuple(sorted(set(keys), key=str))
    declared = heads(model, wanted)
    cuttable = isinstance(example, Tensor) and len(example) > 0
    if declared is not model or not isinstance(model, nn.Module) or not cuttable or _closed(model):
        return declared
    with _LOCK:
        try:
            forward = _found(model, wanted, example).forward
        except _FailsError:  # the caller's own run will show how
            return model
    return model if forward is None else partial(_call, model, forward)


class _Cut(NamedTuple):
    """A checked forward, or the reason why there is none; neither where nothing is to gain.

    `bound`: for inputs of one shape only.
    """

    forward: Forward | None = None
    reason: str | None = None
    bound: bool = False


@dataclass(eq=False)
class _Cuts:
    """Cuts known of a model; never the model itself, which would keep it alive.

    Attributes:
        found: Cuts by `key`, and by the input's shape where they are bound to it.
        counters: Attributes that a run of the model changes, by the module's id: no part of what it is.
    """

    found: dict[Any, _Cut] = field(default_factory=dict)
    counters: set[tuple[int, str]] = field(default_factory=set)
    warned: bool = False

    def key(self, model: nn.Module, wanted: tuple[str | int, ...], example: Tensor) -> tuple[Any, ...]:
        """Key of a cut: all that it depends on; cheap, since every attack asks."""
        parts: list[Any] = [wanted, example.dtype, example.device, example.ndim, ambient()[2:]]
        for module in model.modules():
            attributes = vars(module)
            parts += (type(module), id(module), "forward" in attributes)
            for name, value in attributes.items():
                if type(value) in _PLAIN and (id(module), name) not in self.counters:
                    parts += (name, value)
            parts += hook_handles(module)
            for found in (module.named_parameters, module.named_buffers):
                for name, value in found(recurse=False, remove_duplicate=False):
                    parts += (name, value.shape, value.dtype, value.device)
        return tuple(parts)


class _FailsError(Exception):
    """The whole model raises on the example."""


_PLAIN = frozenset([bool, int, float, str, type(None)])


_LOCK = RLock()


_CUTS: WeakKeyDictionary[nn.Module, _Cuts] = WeakKeyDictionary()


def _call(model: nn.Module, forward: Forward, x: Tensor) -> Output:
    try:
        return forward(model, x)
    except Elsewhere:
        return model(x)


def _closed(model: nn.Module) -> bool:
    """Whether a module is another's wrapper, or watched by hooks on all modules: its call is its own."""
    wrapper = of_torch(model) and not isinstance(model, nn.Sequential)
    return wrapper or compiled(model) or watched_globally()


def _found(model: nn.Module, wanted: tuple[str | int, ...], example: Tensor) -> _Cut:
    """A cut, looked up or made; a failure is told once."""
    known = _CUTS.setdefault(model, _Cuts())
    key, shape = known.key(model, wanted, example), example.shape[1:]
    for place in ((key, None), (key, shape)):
        if place in known.found:
            return known.found[place]
    made = _made(model, wanted, example, known)
    if len(known.found) >= MOST:
        known.found.clear()
    key = known.key(model, wanted, example)  # by now its counters are known
    known.found[key, shape if made.bound else None] = made
    if made.reason is not None and not known.warned:
        known.warned = True
        _warn(model, wanted, made.reason)
    return made


def _made(model: nn.Module, wanted: tuple[str | int, ...], example: Tensor, known: _Cuts) -> _Cut:
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the caller's own run will say them
        try:
            stack.enter_context(frozen(model))
        except ValueError:  # batch statistics: the caller's to refuse
            return _Cut()
        stack.enter_context(restored(model))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        x = torch.cat([example[:2].detach()] * 2)[:2]
        before, chance = marks(model.modules()), _chance(x)
        with restored(model):
            try:
                output = model(x)
            except Exception as error:  # a model may raise anything
                raise _FailsError from error
            written = differing(before, marks(model.modules()))
        known.counters |= {(id(module), name) for module, name in written}
        if not _some(output, wanted):
            return _Cut()
        if not torch.equal(chance, _chance(x)):
            return _Cut(reason="it draws random numbers; call model.eval() to turn dropout off")
        reason = _unfit(model)
        return _checked(model, wanted, x) if reason is None else _Cut(reason=reason)


def _some(output: Output, wanted: tuple[str | int, ...]) -> bool:
    """Whether these are heads of the output, and not all of them."""
    try:
        for key in wanted:
            head(output, key, "output")
    except KeyError:  # the caller's to report
        return False
    return len(wanted) < (len(fields(output)) if is_dataclass(output) else len(output))


def _unfit(model: nn.Module) -> str | None:
    if found := hooks(model):
        names = ", ".join(getattr(hook, "__qualname__", repr(hook)) for hook in found)
        return f"it has hooks on itself ({names}), which see the whole output"
    return "its forward is set on the object, not in its class" if "forward" in vars(model) else None


def _checked(model: nn.Module, wanted: tuple[str | int, ...], x: Tensor) -> _Cut:
    reason = None
    for coarse in (False, True):
        try:
            part = cut(Traced(model, x, coarse=coarse), wanted)
            if part is None:
                break
            run = partial(part.forward, model)
            if all(_close(_seen(run, some, wanted), _seen(model, some, wanted)) for some in (x, x[:1])):
                return _Cut(part.forward, bound=part.bound)
            reason = reason or "its heads or their gradients would differ"
        except Elsewhere:
            reason = reason or "its forward branches on the number of examples, or on their values"
        except UntraceableError as error:
            reason = reason or str(error)
        except Exception as error:  # noqa: BLE001 - a user's forward may raise anything at a symbol
            reason = reason or f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return _Cut(reason=reason)


def _seen(model: Model, x: Tensor, wanted: Iterable[str | int]) -> list[Tensor]:
    """The heads, and the input gradient of a random projection of them."""
    point = x.clone().requires_grad_(x.is_floating_point())
    output = model(point.clone())  # one that writes in place must not meet a leaf
    found = [tensor for key in wanted for tensor in tensors(head(output, key, "output"))]
    smooth = [tensor for tensor in found if tensor.requires_grad]
    gradient: Sequence[Tensor | None] = []
    if smooth:
        chance = torch.Generator().manual_seed(0)
        weights = [torch.randn(tensor.shape, generator=chance).to(tensor) for tensor in smooth]
        gradient = torch.autograd.grad(smooth, [point], weights, allow_unused=True)
    return [tensor.detach() for tensor in (*found, *gradient) if tensor is not None]


def _close(part: list[Tensor], whole: list[Tensor]) -> bool:
    """Equal up to rounding, relative to the largest entry."""
    if [(t.shape, t.dtype) for t in part] != [(t.shape, t.dtype) for t in whole]:
        return False
    for one, other in zip(part, whole, strict=True):
        exact = not one.is_floating_point() or one.numel() == 0
        scale = 0.0 if exact else float(other.abs().nan_to_num(0.0, 0.0, 0.0).max())
        slack = 0.0 if exact else scale * torch.finfo(one.dtype).eps ** (2 / 3)
        if not torch.allclose(one, other, rtol=0.0, atol=slack, equal_nan=True):
            return False
    return True


def _chance(x: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()


def _warn(model: nn.Module, wanted: tuple[str | int, ...], reason: str) -> None:
    warnings.warn(
        f"only {', '.join(map(repr, wanted))} of this {type(model).__name__}'s output will be read, but all "
        f"of it is computed, since it cannot be cut automatically: {reason}. Results are right, they only "
        "cost more. Let the forward take the keys that are wanted and compute no others, "
        "`def forward(self, x, heads=(...))`; or pass prune=False to say that this is as it should be",
        stacklevel=3,
    )
