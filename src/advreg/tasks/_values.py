"""Task for heads of numbers."""

from __future__ import annotations

from advreg.objectives import J_IND_reg, absolute_error
from advreg.rules import Shrinking
from advreg.tasks._given import Given, Valid, check_given
from advreg.tasks._task import PLAIN, Member, Task, smooth_members


def values(*, valid: Valid | None = None) -> Task:
    """A head of numbers, `(B,)` or `(B, K)`: the mean `absolute_error`, higher is worse, without an end.

    The target is shaped like the output, or a mapping with it as "target" and, bool, "valid". Numbers of
    different units are added as they are; `through(lambda output: output / units, values(), target=...)`
    makes them comparable.

    Args:
        valid: From the target to which numbers are there, bool, shaped like it: `torch.isfinite`.

    Raises:
        TypeError: A `valid` that is no function.

    Example:
        >>> import torch
        >>> from advreg.tasks import values
        >>> task = values(valid=torch.isfinite)
        >>> task.metric(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, torch.nan]]))
        tensor([2.])
    """
    check_given(valid=valid)
    error = Given(absolute_error, valid)
    return Task(
        error,
        "higher",
        (
            *smooth_members(error, "absolute error"),
            Member("squares, shrinking radius", Given(J_IND_reg, valid), PLAIN, Shrinking()),
        ),
    )
