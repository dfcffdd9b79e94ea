"""Kinds of things that have a text of their own, the first that fits."""

from __future__ import annotations

import io
import logging
import os
import threading
import weakref
from contextvars import ContextVar
from enum import Enum
from functools import cached_property, partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advreg._core.fingerprint._code import (
    without_addresses,
)
from advreg._core.fingerprint._functions import (
    of_builtin,
    of_class,
    of_descriptor,
    of_function,
    of_method,
    of_partial,
    of_python_module,
)
from advreg._core.fingerprint._modules import of_array, of_module, of_tensor
from advreg._core.fingerprint._objects import Named, of_enum, only_named
from advreg._core.fingerprint._walk import Told

KINDS: tuple[tuple[Any, Told], ...] = (
    (Tensor, of_tensor),
    (np.ndarray, of_array),
    (nn.Module, of_module),
    (partial, of_partial),
    (FunctionType, of_function),
    (MethodType, of_method),
    ((BuiltinFunctionType, MethodWrapperType), of_builtin),
    ((staticmethod, classmethod, property, cached_property), of_descriptor),
    (type, of_class),
    (ModuleType, of_python_module),
    (Enum, of_enum),
    (
        (
            Named,
            logging.Logger,
            logging.Handler,
            io.IOBase,
            weakref.ReferenceType,
            weakref.WeakKeyDictionary,
            weakref.WeakValueDictionary,
            weakref.WeakSet,
            ContextVar,
            GeneratorType,
            threading.Thread,
            threading.local,
            MemberDescriptorType,
            RemovableHandle,
            type(os.environ),
            torch.device,  # results on another agree up to rounding
        ),
        only_named,
    ),
    (PurePath, lambda _, path, __: f"path {str(path)!r}"),
    ((torch.dtype, torch.layout, torch.memory_format, np.dtype), lambda _, thing, __: repr(thing)),
    (np.generic, lambda _, number, __: f"{number.dtype} {number.item()!r}"),
    (torch.Generator, lambda walk, thing, path: f"generator {walk.text(thing.get_state(), path)}"),
    (
        torch.jit.ScriptFunction,
        lambda _, thing, __: f"script {thing.code} {without_addresses(str(thing.graph))}",
    ),
)
