"""Batch of examples to be attacked: inputs, targets, the threat, and what travels with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import check_each, examples
from advreg._core.targets import Structure, bare, cut, inputs_structure, marked, structure_of
from advreg._core.trees import children, differentiable, head, replaced
from advreg._core.types import Input, Target
from advreg.threats import Product, Threat, Threats, l2


class Others(NamedTuple):
    """Others of a model's inputs: those that are not attacked, and the places of those that are.

    Attributes:
        tree: The inputs, with None in the place of what is attacked.
        keys: The keys of what is attacked.
        structure: How the others belong to the examples; None: as their marks say, or as they look.
    """

    tree: Any
    keys: tuple[str | int, ...]
    structure: Structure | None = None


class Batch(NamedTuple):
    """Examples to be attacked together; `Batch.of` makes one of what a caller passes to an attack.

    Attributes:
        x: What is attacked, `(B, *input)`, the centres of the threat; of several tensors rows `(B, N)`.
        y: The target.
        threat: Where they may move.
        start: Where the attack begins, like `x`; None: at the centres.
        structure: How the target belongs to the examples; None: as its marks say, or as it looks.
        others: The model's other inputs; None where `x` is all that it takes.
    """

    x: Tensor
    y: Target
    threat: Threat | Product
    start: Tensor | None = None
    structure: Structure | None = None
    others: Others | None = None

    @staticmethod
    def of(x: Input, y: Target, threat: Threats, start: Input | None = None, *, look: bool = True) -> Batch:
        """The batch of an attack's arguments, checked.

        Args:
            x: One tensor `(B, *input)`; or what the model takes, in which `threat` names what is attacked.
            y: The target.
            threat: Of one tensor; or of each tensor that is attacked, by its key, field or place in `x`.
            start: Where the attack begins: like `x`, of which the tensors that are attacked count.
            look: Whether to look at the inputs' values, for which an accelerator is waited.

        Raises:
            TypeError: No threat; inputs that are no tensors of floating-point numbers.
            ValueError: Inputs that do not fit their threat, or differ in number; a start unlike the inputs.
            KeyError: An input that is not there.
        """
        check_each("threat", threat, Threat, "Threat(linf, 0.03)")
        x, y, start = differentiable(x), differentiable(y), differentiable(start)
        if not isinstance(threat, Mapping):
            if look:
                threat.validate(x)
            return Batch(x.detach(), y, threat, _begun(start, x, threat))
        keys = tuple(threat)
        if isinstance(x, Tensor) or children(x) is None:
            raise TypeError(
                f"threats of {list(keys)} are for a model of several inputs, in which they name what is "
                f"attacked; got one input, {type(x).__name__}: of one tensor pass Threat(...) itself, of "
                'several x={"image": image, "age": age}, threat={"image": Threat(linf, 0.03)}'
            )
        for key, one in threat.items() if look else ():
            one.validate(bare(head(x, key, "input")))
        attacked = _attacked(x, keys)
        first = attacked[keys[0]]
        for key, own in attacked.items():
            if (len(own), own.dtype, own.device) != (len(first), first.dtype, first.device):
                raise ValueError(
                    "inputs that are attacked together must be of one length, dtype and device; got "
                    f"{len(first)} examples of {first.dtype} on {first.device} for {keys[0]!r}, and "
                    f"{len(own)} of {own.dtype} on {own.device} for {key!r}"
                )
        joint: Threat | Product = threat[keys[0]]
        if len(keys) > 1:
            shapes = tuple(tuple(own.shape[1:]) for own in attacked.values())
            joint = Product(tuple(threat.values()), shapes)
        others = Others(replaced(x, dict.fromkeys(keys)), keys)
        whole = Batch(_joint(attacked), y, joint, None, None, others)
        return whole if start is None else whole._replace(start=_begun(start, x, joint, keys))

    @staticmethod
    def single(x: Input, y: Target, threat: Threats) -> Batch:
        """The batch of an attack that moves one tensor.

        Raises:
            ValueError: Threats of several; and as for `of`.
        """
        batch = Batch.of(x, y, threat)
        if batch.others is not None and len(batch.others.keys) > 1:
            raise ValueError(
                f"this attack moves one input at a time; got threats of {list(batch.others.keys)}: attack "
                "one after the other, or all together by pgd_attack"
            )
        return batch

    @staticmethod
    def unbounded(x: Input, y: Target, key: str | int | None = None) -> Batch:
        """The batch whose `x` is what noise is added to, wherever that leads.

        Args:
            x: The inputs.
            y: The target.
            key: Of several inputs that of the noisy one.
        """
        anywhere = Threat(l2, 0.0, bounds=None)
        return Batch.single(x, y, anywhere if key is None else {key: anywhere})

    def settled(self) -> Batch:
        """The same batch with its structure, and a target without marks, as objectives get it."""
        whole, others, count = self, self.others, len(self.x)
        if others is not None and others.structure is None:
            structure = inputs_structure(others.tree, count)
            whole = whole._replace(others=Others(bare(others.tree), others.keys, structure))
        if whole.structure is None:
            whole = whole._replace(y=bare(whole.y), structure=structure_of(whole.y, count))
        return whole

    def marked(self) -> Target:
        """The target with the marks of its structure, for an attack of its own."""
        whole = self.settled()
        assert whole.structure is not None
        return marked(whole.y, whole.structure)

    def arguments(self) -> dict[str, Any]:
        """`x`, `y` and `threat` as an attack of its own takes them, marked where their structure is known."""
        y = self.y if self.structure is None else self.marked()
        if self.others is None:
            return {"x": self.x, "y": y, "threat": self.threat}
        tree, keys, structure = self.others
        tree = tree if structure is None else marked(tree, structure)
        threats = self.threat.threats if isinstance(self.threat, Product) else (self.threat,)
        told = _filled(tree, keys, self._apart(self.x))
        return {"x": told, "y": y, "threat": dict(zip(keys, threats, strict=True))}

    def inputs(self, x: Tensor | None = None) -> Input:
        """What the model takes, at points of these examples, by default the centres.

        Args:
            x: Points like the batch's `x`, or several of them for each example, `(..., B, *input)`.
        """
        x = self.x if x is None else x
        if self.others is None:
            return x
        return _filled(bare(self.others.tree), self.others.keys, self._apart(x))

    def attacked(self, inputs: Input) -> Tensor:
        """What is attacked among inputs as the model takes them, like the batch's `x`."""
        return inputs if self.others is None else _joint(_attacked(inputs, self.others.keys))

    def take(self, some: Tensor | slice) -> Batch:
        """Some of the examples: a range, flags `(B,)`, or places, which may come several times."""
        whole, place = self.settled(), some if isinstance(some, slice) else some.to(self.x.device)
        assert whole.structure is not None
        count, others = len(self.x), whole.others
        y = cut(whole.y, whole.structure, some, count)
        start = None if self.start is None else self.start[place]
        if others is not None:
            assert others.structure is not None
            others = others._replace(tree=cut(others.tree, others.structure, some, count))
        return Batch(self.x[place], y, self.threat.take(some, self.x), start, whole.structure, others)

    def repeat(self, times: int) -> Batch:
        """The examples several times, one batch after another."""
        return (
            self if times == 1 else self.take(torch.arange(len(self.x), device=self.x.device).repeat(times))
        )

    def _apart(self, x: Tensor) -> list[Tensor]:
        return self.threat.apart(x) if isinstance(self.threat, Product) else [x]


def _attacked(inputs: Input, keys: tuple[str | int, ...]) -> dict[str | int, Tensor]:
    """What is attacked, by key."""
    return {key: bare(head(inputs, key, "input")) for key in keys}


def _joint(attacked: Mapping[str | int, Tensor]) -> Tensor:
    """One tensor as it is; several as rows `(B, N)`."""
    if len(attacked) == 1:
        return next(iter(attacked.values())).detach()
    return torch.cat([own.detach().flatten(1) for own in attacked.values()], 1)


def _filled(tree: Any, keys: tuple[str | int, ...], held: list[Tensor]) -> Input:
    return replaced(tree, dict(zip(keys, held, strict=True)))


def _begun(start: Any, x: Input, threat: Threat | Product, keys: tuple[str | int, ...] = ()) -> Tensor | None:
    """Where an attack begins, checked against the inputs."""
    if start is None:
        return None
    own: Mapping[str | int, Tensor] = _attacked(x, keys) if keys else {"": x}
    given: Mapping[str | int, Tensor] = _attacked(start, keys) if keys else {"": start}
    for key, one in given.items():
        like, name = own[key], "start" if key == "" else f"the start of {key!r}"
        if not isinstance(one, Tensor) or one.shape != like.shape or one.dtype != like.dtype:
            came = (
                f"{one.dtype} of shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            )
            raise ValueError(f"{name} must be like x, {like.dtype} of shape {tuple(like.shape)}; got {came}")
    joint = _joint(given)
    if bool((sick := threat.free(_joint(own)) & ~joint.isfinite()).any()):
        raise ValueError(
            f"start must be finite where inputs may change; got NaN or infinity in {examples(sick)}"
        )
    return joint
