"""Fingerprints of models, data and functions: texts that differ where what they stand for does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from advreg._core.fingerprint._code import package_version
from advreg._core.fingerprint._kinds import KINDS
from advreg._core.fingerprint._objects import of_instance
from advreg._core.fingerprint._walk import Walk

__all__ = ["describe", "digest", "facts", "package_version", "weights"]


def digest(thing: Any) -> str:
    """The SHA-256 of `describe(thing)`."""
    return hashlib.sha256(describe(thing).encode()).hexdigest()


def describe(thing: Any) -> str:
    """A text that is the same in every process, and differs where what a thing computes may differ.

    Seen are
    - tensors and arrays: dtype, shape and every bit, wherever they are and however they are laid out or
      spread over processes;
    - modules: parameters, buffers, also those that are not saved, train mode, hooks and plain attributes of
      every layer;
    - functions: their code, default arguments, closures, own attributes, and the globals that they read with
      all that those are, functions that they call among them;
    - objects: what they hold, in `__dict__` or `__slots__`, whatever their `__repr__` shows; the functions
      and values in the bodies of their classes;
    - collections, bound methods and partial functions: what they consist of.

    Functions and classes of installed packages are told by name; `facts` adds the version. Not seen are
    files, environment variables and the time, a module's own names that are found by a text
    (`globals()["scale"]`), C code, what lies deeper than a hundred levels, and the state of loggers, open
    files, threads and weak references. Where a thing counts or caches as it is used, it is another one
    afterwards; values of a `functools.cached_property` do not count.

    Example:
        >>> from functools import partial
        >>> from advreg import J_IND_reg, Threat, linf, on
        >>> describe(partial(on, "mask", function=J_IND_reg))
        "partial(advreg.objectives._combine.on, 'mask', function=advreg.objectives._paper.J_IND_reg)"
        >>> describe(Threat(linf, 0.03))
        'Threat(norm=_Linf(), radius=0.03, bounds=tuple(0.0, 1.0), mask=None, scale=None, levels=None)'
    """
    return Walk(KINDS, of_instance).whole(thing, None)


def facts(thing: Any) -> dict[str, str]:
    """What `describe` sees of a thing, piece by piece, so that what differs between two has a name.

    Returns:
        Names of pieces, such as "its global 'scale'", and the text of each; `""` is the whole, and
        "package torch" the version of a package that functions or classes come from.

    Example:
        >>> scale = 2.0
        >>> found = facts({"scale": scale, "shift": None})
        >>> found["its entry 'scale'"], found[""]
        ('2.0', "dict('scale': 2.0, 'shift': None)")
    """
    walk = Walk(KINDS, of_instance)
    text = walk.whole(thing, ())
    return {"": text, **walk.facts}


def weights(found: Mapping[str, str]) -> dict[str, str]:
    """Those of the facts that are about parameters and buffers."""
    return {name: text for name, text in found.items() if "its parameter " in name or "its buffer " in name}
