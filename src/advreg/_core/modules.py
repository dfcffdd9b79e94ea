"""Modules of torch: kinds that have no public name of their own, and what hangs on a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_MANY = 1000
"""Entries, at most, of a container that is looked through; a larger one is data."""
_NUMBERS = (int, float, str, type(None))
"""Entries of lists, such as a kernel's size, that hold no module."""


def hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks on a module itself, of every kind that torch has."""
    return [hook for kind in _hook_tables(vars(module)) for hook in kind.values()]


def watched_globally() -> bool:
    """Whether hooks are registered that run at every module's call."""
    return bool(_hook_tables(vars(nn.modules.module)))


def hook_handles(module: nn.Module) -> list[int]:
    """The numbers of the hooks on a module: two modules' are the same only where their hooks are."""
    return [handle for kind in _hook_tables(vars(module)) for handle in kind]


def compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called: its call no longer runs its forward."""
    return any("compiled" in name and value is not None for name, value in vars(module).items())


def of_torch(module: nn.Module) -> bool:
    """Whether a module's class is torch's own: a layer, a container, or a wrapper around another module."""
    return type(module).__module__.startswith("torch.")


def _hook_tables(attributes: Mapping[str, Any]) -> list[Mapping[int, Callable[..., Any]]]:
    """The tables among attributes of what runs before and after a call: torch names them all alike."""
    return [
        value
        for name, value in attributes.items()
        if name.endswith(("ward_hooks", "ward_pre_hooks")) and isinstance(value, Mapping) and value
    ]


def modules_of(model: Any) -> list[nn.Module]:
    """The modules that a model runs: all submodules of a module; of a function those that it reaches.

    A function is looked through: what it encloses, its defaults, what a `partial` or bound method holds, the
    attributes of a callable object, and the globals that its code names. What it fetches otherwise is not
    seen.

    Example:
        >>> from functools import partial
        >>> net = nn.Linear(2, 1)
        >>> models = (net, lambda x: net(x), partial(net, scale=1.0), net.forward, len)
        >>> [len(modules_of(model)) for model in models]
        [1, 1, 1, 1, 0]
    """
    found: dict[int, nn.Module] = {}
    for thing, _ in reached(model):
        if isinstance(thing, nn.Module):
            found |= {id(module): module for module in thing.modules()}
    return list(found.values())


def named_modules(model: Any) -> list[tuple[str, nn.Module]]:
    """The modules that a model runs, with their names; of a function those that it reaches."""
    if isinstance(model, nn.Module):
        return list(model.named_modules())
    return [pair for root in roots(modules_of(model)) for pair in root.named_modules()]


def reached(function: Any) -> Iterator[tuple[Any, bool]]:
    """What a function consists of, itself included, and whether a plain function stands around it.

    Functions, partials, bound methods, callable objects and containers are looked through, of modules the
    lists that they hold.
    """
    seen: set[int] = set()
    left: list[tuple[Any, bool]] = [(function, False)]
    while left:
        thing, inside = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing, inside
        plain = isinstance(thing, (partial, MethodType, FunctionType))
        left += [(part, inside or plain) for part in _parts(thing)]


def sharded(modules: Iterable[nn.Module]) -> list[Any]:
    """Those of modules whose parameters `fully_shard` spreads over processes; they have `reshard()`."""
    return [one for one in modules if all(callable(getattr(one, do, None)) for do in ("unshard", "reshard"))]


def roots(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of modules that are no part of another."""
    modules = list(modules)
    parts = {id(child) for module in modules for child in module.children()}
    return [module for module in modules if id(module) not in parts]


def _parts(thing: Any) -> Iterable[Any]:
    """What a thing consists of, if it is no module."""
    parts: Iterable[Any] = ()
    match thing:
        case nn.Module():  # a network that it keeps in a list, so that it is no part of it
            held = [value for module in thing.modules() for value in vars(module).values()]
            lists = [value for value in held if isinstance(value, (list, tuple)) and len(value) <= _MANY]
            parts = [value for value in lists if not all(isinstance(one, _NUMBERS) for one in value)]
        case type():
            pass
        case partial():
            parts = [thing.func, *thing.args, *thing.keywords.values()]
        case MethodType():
            parts = [thing.__self__, thing.__func__]
        case FunctionType():
            parts = _of_function(thing)
        case list() | tuple() if len(thing) <= _MANY:
            parts = thing
        case Mapping() if len(thing) <= _MANY:
            parts = thing.values()
        case _:
            parts = vars(thing).values() if callable(thing) and hasattr(thing, "__dict__") else []
    return parts


def _of_function(function: FunctionType) -> list[Any]:
    """What a function encloses, its defaults, and the globals that its code names."""
    held = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell that is not filled yet
            held.append(cell.cell_contents)
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    own = (function.__globals__.get(name) for name in names)
    return held + [one for one in own if callable(one) and not isinstance(one, type) and not _installed(one)]


def _installed(thing: Any) -> bool:
    """Whether a function is torch's or this library's own: it holds no network of the caller's."""
    name = getattr(thing, "__module__", None) or ""
    return isinstance(thing, FunctionType) and name.partition(".")[0] in ("torch", "advreg", "numpy")
