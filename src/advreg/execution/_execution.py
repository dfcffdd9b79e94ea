"""Execution: how a model is run in an attack, as a value, and the one context that runs a model by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from advreg._core.checks import check_kind
from advreg._core.modules import modules_of
from advreg._core.trees import map_tensors
from advreg._core.types import Input, Model
from advreg.execution._assumptions import Examined, Function, examined
from advreg.execution._batch import Batch
from advreg.execution._expectation import Expectation
from advreg.execution._frozen import frozen
from advreg.execution._memory import Parts, checkpointed, room
from advreg.execution._precision import (
    Precision,
    cast,
    check_precision,
    dtype_of,
    entered,
    lowered,
    of_their_own,
)
from advreg.execution._pruning import pruned


@dataclass(frozen=True)
class Execution:
    """Execution of a model in an attack: precision, layout, memory. Results agree up to rounding.

    Args:
        precision: In what the network computes on the way: "float32" is its own, "bfloat16" and "float16"
            take copies of its weights. Iterate, objective and what is reported keep the dtype of the input.
        channels_last: Whether the network computes with the channels of a pixel side by side.
        compiled: Whether to run the network through `torch.compile`, up to minutes once for each shape; or
            its mode. "reduce-overhead" replays CUDA graphs on an NVIDIA GPU, where batches are small.
        checkpoint: Types of submodules whose inside is computed again on the way back rather than kept, such
            as a network's residual block: less memory for more time. Of nested ones the outermost.
        micro_batch: How many examples, or restarts of them, run at once, at most; by default 400,000
            numbers of input on a CPU (24 images of 128 x 128), 4 million elsewhere.
        prune: Whether to leave out what the heads that are read do not need; see `advreg.execution.pruned`.
        noisy: Whether it is known that two passes on the same input differ: a network that is random by
            design, attacked as it is. Otherwise an attack refuses it.

    Raises:
        ValueError: Another precision; a micro-batch below 1.
        TypeError: A checkpoint that is no tuple of module types.

    Example:
        >>> import torch
        >>> from advreg import Execution, J_IND_reg, Threat, linf, pgd_attack
        >>> model, x, y = torch.nn.Linear(3, 2), torch.rand(8, 3), torch.zeros(8, 2)
        >>> quick = Execution(precision="bfloat16", micro_batch=4)
        >>> found = pgd_attack(model, x, y, objective=J_IND_reg, threat=Threat(linf, 0.1), execution=quick)
        >>> found.value.dtype, model.weight.dtype
        (torch.float32, torch.float32)

    Source:
        Micikevicius et al., Mixed precision training, arXiv:1710.03740; Chen et al., Training deep nets with
        sublinear memory cost, arXiv:1604.06174; Reed et al., torch.fx, arXiv:2112.08429.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool | str = False
    checkpoint: tuple[type[nn.Module], ...] = ()
    micro_batch: int | None = None
    prune: bool = True
    noisy: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)
        kinds = self.checkpoint
        if not isinstance(kinds, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds
        ):
            raise TypeError(f"checkpoint must be a tuple of module types, (Block,); got {kinds!r}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be 1 or more, or None; got {self.micro_batch}")

    def parts(self, x: Input) -> Parts:
        """The parts of a batch like `x`: of the micro-batch's size."""
        return Parts(room(x) if self.micro_batch is None else self.micro_batch)


@dataclass(frozen=True, eq=False)
class Running:
    """A model that is run by an `Execution`: what `running` gives.

    Attributes:
        exact: The network, or its part that the heads need, as the caller would run it.
        rounds: Whether `quick` computes in another precision, so that what it finds must be looked at again.
        parts: What runs a batch in parts.
    """

    exact: Model
    rounds: bool
    parts: Parts
    _model: Model
    _part: Model
    _reads: frozenset[str | int] | None
    _example: Input
    _execution: Execution

    def examine(self, batch: Batch, functions: Mapping[str, Function], *, resized: bool) -> Examined:
        """Test on the clean inputs what an attack assumes: examples do not interact, a pass repeats itself.

        Args:
            batch: The batch.
            functions: By name: objective, judge, stop rule, `(output, target) -> (B,)`.
            resized: Whether batches of another size will follow.

        Returns:
            The batch, with the structure of its target, and each function's values at the clean inputs.

        Raises:
            ValueError: An assumption does not hold; the message names the causes that fit what was seen.
        """
        modules = modules_of(self._model)
        noisy = self._execution.noisy or any(isinstance(module, Expectation) for module in modules)
        # Other inputs that are cut wrongly show beside another example, not in parts of one.
        parts = self.parts if batch.others is None else Parts(max(2, self.parts.size))
        return examined(self._model, self.exact, batch, parts, functions, noisy=noisy, resized=resized)

    @contextmanager
    def quick(self) -> Iterator[Model]:
        """The same network for the way: in the execution's precision and layout, compiled if it says so."""
        how = self._execution
        with lowered(self._model, how.precision, channels_last=how.channels_last):
            network, low = self._part, partial(entered, dtype=dtype_of(how.precision))
            if how.prune and self.rounds:  # anew: what the forward makes in the input's dtype differs
                network = pruned(self._model, self._reads, low(self._example))
            if how.compiled:
                network = torch.compile(network, mode=how.compiled if isinstance(how.compiled, str) else None)
            yield _untouched(cast(network, how.precision, channels_last=how.channels_last))


@contextmanager
def running(
    model: Model, reads: Iterable[str | int] | None, x: Input, execution: Execution | None = None
) -> Iterator[Running]:
    """Run a model by an execution, frozen, and leave it bit for bit as it was.

    Every attack of the library runs its model through this one context, and so may one of your own.

    Args:
        model: Any model; see `advreg.execution.frozen` for what is put back.
        reads: The heads that will be read, `advreg.objectives.heads_read(objective)`; None for all.
        x: Inputs such as will follow, as the model takes them.
        execution: How; by default `Execution()`.

    Raises:
        ValueError: As for `frozen`; a checkpoint of which the model has no submodule.
        TypeError: A model that cannot be called; an execution that is none.

    Example:
        >>> import torch
        >>> from advreg import Execution
        >>> from advreg.execution import running
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> with running(model, None, x, Execution("bfloat16")) as network:
        ...     with network.quick() as quick:
        ...         on_the_way = quick(x)
        ...     exact = network.exact(x)
        >>> on_the_way.dtype, bool((on_the_way - exact).abs().max() < 0.1)
        (torch.float32, True)
    """
    if not callable(model):
        raise TypeError(
            f"model must be a function of the inputs, such as a torch.nn.Module; got {model!r:.60} of type "
            f"{type(model).__name__}"
        )
    how = Execution() if execution is None else execution
    check_kind("execution", how, Execution, 'Execution(precision="bfloat16")')
    heads = None if reads is None else frozenset(reads)
    with frozen(model), of_their_own(model), checkpointed(model, how.checkpoint):
        part = pruned(model, heads, x) if how.prune else model
        rounds = how.precision != "float32"
        yield Running(_untouched(part), rounds, how.parts(x), model, part, heads, x, how)


def _untouched(network: Model) -> Model:
    """A network that is handed inputs of its own, to which it may write."""
    return lambda x: network(map_tensors(Tensor.clone, x))
