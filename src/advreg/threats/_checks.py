"""Checks of what a threat is made of, and of inputs; each error says expected, received, remedy."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from advreg._core.trees import tensors

_METHODS = ("size", "project", "steepest", "sample")


def check_norm(norm: Any, radius: Any) -> None:
    """Insist on a norm; `radius` tells whether both were exchanged.

    Raises:
        TypeError: Something without the methods of a norm, or a class in place of its value.
    """
    missing = [name for name in _METHODS if not hasattr(norm, name)]
    if not missing and not isinstance(norm, type):
        return
    came = f"{norm!r} of type {type(norm).__name__}"
    if not missing:
        remedy = f": pass a value of the class, {norm.__name__}()"
    elif all(hasattr(radius, name) for name in _METHODS):
        remedy = f", and the norm as radius: exchange them, Threat({radius!r}, {norm!r})"
    elif isinstance(norm, str):
        remedy = ": import the norm and pass it without quotes, Threat(linf, 0.1)"
    else:
        remedy = f", without {', '.join(missing)}"
    raise TypeError(
        "norm must be advreg.linf, l2, l1, or an object with size, project, steepest and sample; "
        f"got {came}{remedy}"
    )


def check_radius(radius: Any) -> None:
    """Insist on a number of zero or more, or a tensor of one for each example.

    Raises:
        TypeError: Something else, such as a list.
        ValueError: A radius below zero or NaN; more than one dimension.
    """
    if not _number(radius):
        raise TypeError(
            f"radius must be one number, or a tensor of one per example, (B,); got {_came(radius)}: pass "
            f"{_remedy(radius)}"
        )
    value = torch.as_tensor(radius)
    if value.ndim > 1:
        raise ValueError(
            f"radius must be one number or one per example, (B,); got shape {tuple(value.shape)}: for a "
            "radius per channel or entry pass it as the scale, Threat(norm, 1.0, scale=radius)"
        )
    if bool((value >= 0).all()):
        return
    if bool(value.isnan().any()):
        remedy = "look for a missing value or 0 / 0 in what the radius is computed from"
    else:
        remedy = "To descend an objective pass negate(objective), not a negative radius"
    raise ValueError(f"radius must be zero or more, in the units of the input; got {brief(value)}. {remedy}")


def check_bounds(bounds: Any) -> None:
    """Insist on two sides in order, each a number or a tensor, or None.

    Raises:
        TypeError: No tuple; sides that are no numbers and no tensors.
        ValueError: Another number of sides; sides that do not fit each other, out of order, or NaN.
    """
    if bounds is None:
        return
    if not isinstance(bounds, tuple):
        raise TypeError(
            f"bounds must be a tuple (lower, upper), or None for no box; got {_came(bounds)}: write "
            "bounds=(0.0, 1.0)"
        )
    if len(bounds) != 2:
        raise ValueError(
            f"bounds must be two sides, (lower, upper); got {len(bounds)}: for one pair per channel pass two "
            "tensors (C, 1, ..., 1)"
        )
    for name, side in zip(("lower", "upper"), bounds, strict=True):
        if not _number(side):
            raise TypeError(
                f"{name} of the bounds must be a number or a tensor; got {_came(side)}: pass {_remedy(side)}"
                ", and infinity for a side that is open"
            )
    lower, upper = (torch.as_tensor(side) for side in bounds)
    upper = upper.to(lower.device)
    try:
        ordered = lower <= upper
    except RuntimeError:
        raise ValueError(
            f"lower and upper of the bounds must broadcast against each other; got shapes "
            f"{tuple(lower.shape)} and {tuple(upper.shape)}"
        ) from None
    if bool(ordered.all()):
        return
    if bool(lower.isnan().any() | upper.isnan().any()):
        remedy = "where there is no limit pass -math.inf or math.inf"
    else:
        remedy = "exchange them, or look at the entries where they cross"
    raise ValueError(
        f"bounds must be (lower, upper) with lower <= upper everywhere; got {brief(lower)} and "
        f"{brief(upper)}: {remedy}"
    )


def check_mask(mask: Any) -> None:
    """Insist on a bool tensor, or None.

    Raises:
        TypeError: Something else.
    """
    if mask is None or (isinstance(mask, Tensor) and mask.dtype == torch.bool):
        return
    came = str(mask.dtype) if isinstance(mask, Tensor) else _came(mask)
    remedy = "mask.bool()" if isinstance(mask, Tensor) else "torch.as_tensor(mask, dtype=torch.bool)"
    raise TypeError(
        f"mask must be bool, a tensor that is True where the input may change; got {came}: pass {remedy}"
    )


def check_scale(norm: Any, scale: Any, supported: bool) -> None:
    """Insist on finite numbers of zero or more, and a norm that can be measured in them; or None.

    Raises:
        TypeError: Something else; a norm of the user's.
        ValueError: A scale below zero, infinite or NaN.
    """
    if scale is None:
        return
    if not _number(scale):
        raise TypeError(
            f"scale must be a tensor that broadcasts against the inputs, (C, 1, 1) for one per channel; got "
            f"{_came(scale)}: pass {_remedy(scale)}"
        )
    value = torch.as_tensor(scale)
    if not bool(((value >= 0) & value.isfinite()).all()):
        raise ValueError(
            f"scale must be zero or more and finite; got {brief(value)}: zero for what may not move, and for "
            "a channel without a limit the width of its bounds"
        )
    if not supported:
        raise TypeError(
            f"scale goes with linf, l2 and l1; got {norm!r:.60}: measure d / scale in the norm's own methods"
        )


def check_levels(norm: Any, levels: Any, bounds: Any, supported: bool) -> None:
    """Insist on a whole number of levels between finite bounds, and a norm whose ball they can fill; or None.

    Raises:
        TypeError: Something else; a norm of the user's.
        ValueError: Less than one level; bounds that are open.
    """
    if levels is None:
        return
    if isinstance(levels, bool) or not isinstance(levels, Integral):
        raise TypeError(
            f"levels must be a whole number, 255 for 8 bits and 4095 for 12; got {levels!r} of type "
            f"{type(levels).__name__}"
        )
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, 255 for 8 bits and 4095 for 12; got {levels}")
    sides = [torch.as_tensor(side) for side in bounds or ()]
    if not sides or not all(bool(side.isfinite().all()) for side in sides):
        raise ValueError(
            f"levels divide the bounds, which must be finite; got {levels} levels and bounds {bounds!r:.60}: "
            "pass those of the file's integers, bounds=(0.0, 1.0) for integers / levels"
        )
    if not supported:
        raise TypeError(
            f"levels go with linf, l2 and l1; got {norm!r:.60}: round in the model, and attack what rounds"
        )


def check_inputs(x: Any) -> None:
    """Insist on a batch of real floating-point inputs, `(B, *input)`.

    Raises:
        TypeError: No tensor, or one of integers or complex numbers.
        ValueError: No example, or no dimension for the batch.
    """
    if not isinstance(x, Tensor):
        several = any(True for _ in tensors(x))
        remedy = (
            "torch.stack(x) of inputs of one shape; of a model of several inputs name what is attacked, "
            "threat={0: Threat(linf, 0.03)}"
            if several
            else "torch.as_tensor(x)"
        )
        raise TypeError(f"inputs must be one tensor (B, *input); got {type(x).__name__}: pass {remedy}")
    if x.is_complex():
        raise TypeError(
            f"inputs must be real, so that norm, radius and bounds have a meaning; got {x.dtype}: pass "
            "torch.view_as_real(x), (B, ..., 2), and a model that takes it back, "
            "lambda x: model(torch.view_as_complex(x))"
        )
    if not x.is_floating_point():
        raise TypeError(
            "inputs must be floating point, so that they can be moved by less than one grey level; "
            f"got {x.dtype}: convert first, for 8-bit images x.float() / 255"
        )
    if x.ndim < 1 or x.shape[0] == 0:
        raise ValueError(f"inputs must be a batch (B, *input) of at least one; got shape {tuple(x.shape)}")


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a tensor of one shape can be expanded to another."""
    try:
        torch.empty(shape, device="meta").expand(to)
    except RuntimeError:
        return False
    return True


def brief(value: Tensor) -> str:
    """The range of a tensor's values, for a message."""
    low, high = value.min().item(), value.max().item()
    return f"{low:.6g}" if low == high or math.isnan(low) else f"{low:.6g} to {high:.6g}"


def _number(value: Any) -> bool:
    """Whether it is a real number, or a tensor of such."""
    if isinstance(value, Tensor):
        return value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def _came(value: Any) -> str:
    """What came, for a message: its type, its value if that is short."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    shown = repr(value)
    return f"{type(value).__name__} {shown}" if len(shown) <= 40 else type(value).__name__


def _remedy(value: Any) -> str:
    """How to write a number or numbers that came in another form."""
    if isinstance(value, Tensor):
        return "a tensor of real numbers"
    if isinstance(value, str):
        return "a number without quotes"
    if isinstance(value, (bool, type(None))):
        return "a number such as 0.03"
    return "torch.as_tensor(...) of it"
