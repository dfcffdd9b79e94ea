"""Identity of an evaluation: all that its numbers depend on, and how two of them differ."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.fingerprint import describe, facts, package_version, weights
from advreg._core.trees import tensors
from advreg._core.types import Model

_SUMS = 8
_SHOWN = 6  # differences that a message names
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 1e-2}
_ANY_OTHER = 1e-3


class Identity(NamedTuple):
    """Identity of one evaluation.

    Attributes:
        told: By name, as "metric 'dice' of head 'mask'", the facts about it; see `advreg._core.fingerprint`.
        outputs: The model's outputs on the first batch, of each tensor its kind and a few sums; of a model
            that gives others each time, such as a randomised defence, only that it does.
    """

    told: dict[str, dict[str, str]]
    outputs: list[dict[str, Any]]

    def differences(self, there: Identity) -> list[str]:
        """What an identity that was written down has otherwise: names of facts, the innermost first."""
        found = []
        for name in dict.fromkeys([*there.told, *self.told]):
            found += _differences(name, there.told.get(name, {}), self.told.get(name, {}))
        if found:
            hidden = len(found) - _SHOWN
            return [*found[:_SHOWN], f"and {hidden} more"] if hidden > 0 else found
        return _other_outputs(there.outputs, self.outputs)


def identity(
    options: Mapping[str, Any],
    functions: Mapping[str, Any],
    model: Mapping[str, str],
    outputs: Sequence[list[dict[str, Any]]],
) -> Identity:
    """The identity of an evaluation.

    Args:
        options: Plain values, by name.
        functions: Attacks and metrics, by name.
        model: The facts about the model.
        outputs: What it returned for the first batch, `summed`, each time that it ran.
    """
    told = {name: facts(function) for name, function in functions.items()} | {"model": dict(model)}
    packages = {"package Python": package_version("sys"), "package advreg": package_version("advreg")}
    for found in told.values():
        packages |= {name: found.pop(name) for name in list(found) if name.startswith("package ")}
    plain = {name: {"": describe(value)} for name, value in options.items()}
    versions = {name: {"": text} for name, text in sorted(packages.items())}
    first, *again = outputs
    random = any(_other_outputs(first, other) for other in again)
    return Identity({**plain, **told, **versions}, [{"kind": "random"}] if random else first)


def summed(output: Any) -> list[dict[str, Any]]:
    """An output in ten numbers for each of its tensors."""
    return [_summed(tensor) for tensor in tensors(output)]


def common(options: Mapping[str, Any], model: Mapping[str, str]) -> dict[str, Any]:
    """What processes must have in common; their attacks and metrics may name a device of their own."""
    return {"model": weights(model), **{name: describe(value) for name, value in options.items()}}


def refuse_networks_in_step(model: Model) -> None:
    """Refuse several processes for a network whose parameters are spread over them.

    Raises:
        ValueError: Such a network: each process would run it on other batches, and wait for the rest.
    """
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    meshes = (getattr(parameter, "device_mesh", None) for parameter in parameters)
    if any(mesh is not None and mesh.size() > 1 for mesh in meshes):
        raise ValueError(
            "fully_shard spreads this network over the processes, which must then run the same batches, but "
            "an evaluation shares the batches out: load the whole network in every process, or use one"
        )


def _differences(name: str, there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    if not there or not here:
        return [f"{name} ({'none there' if not there else 'none here'})"]
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    inner = [key for key in keys if key and not any(other.startswith(f"{key}: ") for other in keys)] or keys
    return [f"{name}{': ' if key else ''}{key}{_both(there.get(key), here.get(key))}" for key in inner]


def _both(there: str | None, here: str | None) -> str:
    """Both texts, unless they say nothing to a reader."""
    if any(text is not None and re.search(r"[0-9a-f]{32}", text) for text in (there, here)):
        return "" if there is not None and here is not None else f" (none {'here' if there else 'there'})"
    return f" ({_brief(there)} there, {_brief(here)} here)"


def _brief(text: str | None) -> str:
    return "none" if text is None else text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"


def _summed(tensor: Tensor) -> dict[str, Any]:
    """An output tensor in ten numbers: its length as a vector, sums with signs drawn once, and odd entries.

    Two outputs that differ by a vector `d` differ in each sum by about `|d|`, whatever `d` is. So the sums
    agree within a tolerance where the outputs do up to rounding, as on another machine, with other threads
    or in another memory layout, where a digest of bits, or of rounded numbers, would not. Outputs count as
    others where a sum differs by more than a thousandth of their length, a hundredth in half precision.
    """
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = values.detach().reshape(-1).cpu().double()
    finite = values.isfinite()
    values = values.where(finite, 0.0)
    sums, generator = torch.zeros(_SUMS, dtype=torch.float64), torch.Generator().manual_seed(0)
    for part in torch.split(values, 1 << 18):
        signs = torch.randint(0, 2, (_SUMS, len(part)), generator=generator, dtype=torch.float64)
        sums += (2 * signs - 1) @ part
    return {
        "kind": f"{tensor.dtype}, {tuple(tensor.shape)}",
        "length": float(values.norm()),
        "sums": sums.tolist(),
        "odd": int((~finite).sum()),
        "tolerance": _TOLERANCE.get(tensor.dtype, _ANY_OTHER),
    }


def _other_outputs(there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> list[str]:
    name = "the model's outputs on the first batch"
    if len(there) != len(here):
        return [f"{name} ({len(there)} tensors there, {len(here)} here)"]
    found = []
    for number, (one, other) in enumerate(zip(there, here, strict=True)):
        which = name if len(here) == 1 else f"{name}, tensor {number}"
        if one["kind"] != other["kind"]:
            found.append(f"{which} ({one['kind']} there, {other['kind']} here)")
            continue
        if one["kind"] == "random":
            continue
        apart = max(
            abs(a - b)
            for a, b in zip([*one["sums"], one["length"]], [*other["sums"], other["length"]], strict=True)
        )
        if one["odd"] != other["odd"] or apart > other["tolerance"] * max(one["length"], other["length"]):
            share = apart / max(one["length"], other["length"], math.ulp(0.0))
            found.append(
                f"{which}, by about {share:.1g} of their size: the model reads something that no fingerprint "
                "sees"
            )
    return found
