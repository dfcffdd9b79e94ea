"""How the network is run during an attack: memory layout, compilation, checkpoints. Results are the same."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from networks import TwoHeads, batch, two_heads
from torch import nn

from advreg import (
    Adamax,
    Execution,
    J_IND_reg,
    J_IND_seg,
    Momentum,
    Threat,
    l2,
    linf,
    on,
    ood_attack,
    pgd_attack,
)
from advreg.execution._memory import checkpointed
from advreg.rules import Adaptive

OPTIONS = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 4}


class Block(nn.Module):
    """Keeps much more than its input."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh()) for _ in range(5))
        )

    def forward(self, x, scale=1.0):
        return x + scale * self.inside(x)


class Deep(TwoHeads):
    def __init__(self, *, nested=False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(Block()) if nested else Block() for _ in range(4))
            self.unread = Block()

    def forward(self, x):
        code = self.encoder(x)
        for block in self.blocks:
            code = block(code)
        return {"contour": self.contour(code.flatten(1)), "mask": self.mask(code), "more": self.unread(code)}


def saved(model, x):
    """Bytes of what a forward pass keeps for the backward pass, the parameters apart."""
    held, own = {}, {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x.requires_grad_())["mask"].sum()
    return sum(held.values())


@pytest.mark.parametrize("kinds", [(Block,), (Block, nn.Sequential), (nn.Sequential,)])
@pytest.mark.parametrize("prune", [True, False])
def test_checkpoints_change_nothing_but_memory(kinds, prune, recwarn):
    model, (x, y) = Deep().eval(), batch(3)
    calls = []
    model.blocks[0].inside[0][0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    attacks = [
        partial(pgd_attack, model, x, y, execution=Execution(prune=prune, checkpoint=kind), **OPTIONS)
        for kind in ((), kinds)
    ]
    for attack in attacks:
        attack()  # which cuts the model
    calls.clear()
    expected = attacks[0]()
    once = len(calls)
    calls.clear()
    found = attacks[1]()
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.value, expected.value)
    assert len(calls) == once + OPTIONS["steps"]  # each gradient computed the block once more
    assert all("forward" not in vars(module) for module in model.modules())
    assert not recwarn.list


@pytest.mark.parametrize("nested", [False, True])
def test_checkpoints_keep_less(nested):
    model, (x, _) = Deep(nested=nested).eval(), batch(3)
    whole = saved(model, x)
    with checkpointed(model, (Block, nn.Sequential)):
        assert saved(model, x) < 0.4 * whole
    assert saved(model, x) == whole


def test_checkpoints_are_taken_back_when_something_raises():
    model, own = Deep(), lambda x: x
    model.blocks[1].forward = own
    with pytest.raises(TypeError, match="unexpected keyword"), checkpointed(model, (Block,)):
        model.blocks[1](torch.ones(2), wrong=model.blocks[1].forward is own)
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == ["blocks.1"]
    assert model.blocks[1].forward is own


def test_checkpoints_need_modules():
    x, y = batch(2)
    with pytest.raises(
        ValueError, match=r"submodules of LSTM, GRU to checkpoint; got a TwoHeads with Conv2d, Gr"
    ):
        pgd_attack(two_heads(), x, y, execution=Execution(checkpoint=(nn.LSTM, nn.GRU)), **OPTIONS)
    with pytest.raises(ValueError, match="got a function with no submodules"):
        pgd_attack(lambda x: {"mask": x}, x, y, execution=Execution(checkpoint=(nn.GRU,)), **OPTIONS)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_channels_lie_side_by_side_inside_and_nowhere_else(precision):
    model, (x, y) = Deep().eval(), batch(3)
    layouts = []

    def look(module, inputs):
        layouts.append([t.is_contiguous(memory_format=torch.channels_last) for t in (*inputs, module.weight)])

    conv = model.blocks[0].inside[1][0]  # behind a first one: with a single channel both layouts are the same
    conv.register_forward_pre_hook(look)
    own = [(id(parameter), parameter.clone(), parameter.stride()) for parameter in model.parameters()]
    expected = pgd_attack(model, x, y, execution=Execution(precision), **OPTIONS)
    assert [False, False] in layouts
    layouts.clear()
    found = pgd_attack(model, x, y, execution=Execution(precision, channels_last=True), **OPTIONS)
    assert layouts[: OPTIONS["steps"]] == [[True, True]] * OPTIONS["steps"]
    tolerance = {"float32": 1e-5, "bfloat16": 0.02, "float16": 5e-3}[precision]
    torch.testing.assert_close(found.value, expected.value, rtol=tolerance, atol=1e-6)
    assert found.x.is_contiguous()
    for parameter, (name, value, stride) in zip(model.parameters(), own, strict=True):
        assert (id(parameter), parameter.stride()) == (name, stride)
        assert torch.equal(parameter, value)


def test_volumes_and_vectors_take_channels_last_too():
    volumes = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 27, 2)).eval()
    vectors = nn.Linear(6, 2)
    for model, x in ((volumes, torch.rand(2, 1, 3, 3, 3)), (vectors, torch.rand(2, 6))):
        options = {"objective": J_IND_reg, "threat": Threat(l2, 0.5), "steps": 3}
        y = torch.zeros(2, 2)
        expected = pgd_attack(model, x, y, **options)
        found = pgd_attack(model, x, y, execution=Execution(channels_last=True), **options)
        torch.testing.assert_close(found.value, expected.value)


COMPILED = """
import torch
from networks import batch, two_heads
from torch._dynamo.utils import counters
from advreg import Execution, J_IND_reg, J_IND_seg, Threat, linf, on, pgd_attack

model, (x, y) = two_heads(), batch(3)
own = [parameter.clone() for parameter in model.parameters()]
for objective in (on("mask", J_IND_seg), on("contour", J_IND_reg)):
    for precision in ("float32", "bfloat16"):
        options = {"objective": objective, "threat": Threat(linf, 0.1), "steps": 4}
        compiled = Execution(precision, compiled=True)
        expected = pgd_attack(model, x, y, execution=Execution(precision), **options)
        found = pgd_attack(model, x, y, execution=compiled, **options)
        again = pgd_attack(model, x, y, execution=compiled, **options)
        torch.testing.assert_close(found.value, expected.value, rtol=1e-2, atol=1e-5)
        assert torch.equal(found.x, again.x)
assert counters["stats"]["unique_graphs"] >= 4, counters  # it was compiled, once for each case
assert counters["stats"]["unique_graphs"] <= 8, counters
assert all(torch.equal(a, b) for a, b in zip(own, model.parameters()))
assert vars(model).get("_compiled_call_impl") is None
print("compiled")
"""


def test_compiled_networks_give_the_same(pytestconfig):
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED],
        capture_output=True, text=True, check=False, cwd=pytestconfig.rootpath / "tests",
    )  # fmt: skip
    if "InvalidCxxCompiler" in ran.stderr:
        pytest.skip("torch.compile needs a C++ compiler")
    assert ran.stdout == "compiled\n", ran.stderr


def test_an_out_of_distribution_attack_takes_them_too():
    model, (x, _) = Deep().eval(), batch(3)
    options = {"objective": on("mask", J_IND_seg), "threat": Threat(l2, 1.0), "steps": 2}
    x_out = x.flip(0)
    target = {"mask": (model(x)["mask"].detach() > 0).float()}
    expected = ood_attack(model, None, x_out, target=target, **options)
    found = ood_attack(
        model,
        None,
        x_out,
        target=target,
        execution=Execution(checkpoint=(Block,), channels_last=True, micro_batch=2),
        **options,
    )
    torch.testing.assert_close(found.value, expected.value)


class Replayed(nn.Module):
    """As CUDA graphs are replayed: outputs and gradients lie in the same memory each time."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.memory = inner.requires_grad_(False), {}

    def put(self, name, tensor):
        place = self.memory.setdefault((name, tensor.shape), torch.empty_like(tensor))
        return place.copy_(tensor)

    def forward(self, x):
        replayed = self

        class Run(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                for place in replayed.memory.values():
                    place.fill_(torch.nan)
                return tuple(replayed.put(key, value) for key, value in replayed.inner(x).items())

            @staticmethod
            def backward(ctx, *gradients):
                (x,) = ctx.saved_tensors
                with torch.enable_grad():
                    x = x.detach().requires_grad_()
                    outputs = list(replayed.inner(x).values())
                    return replayed.put("gradient", *torch.autograd.grad(outputs, x, gradients))

        return dict(zip(("contour", "mask"), Run.apply(x), strict=True))


@pytest.mark.parametrize("rule", [Adamax(0.2), Momentum(), Adaptive()])
@pytest.mark.parametrize("random", [True, False])
def test_a_model_may_answer_in_the_same_memory_each_time(rule, random):
    def judge(output, target):
        return output["contour"][:, 0, 0]  # a view of that memory

    x, y = batch(3)
    options = OPTIONS | {"rule": rule, "random_start": random, "judge": judge}
    expected = pgd_attack(two_heads(), x, y, execution=Execution(prune=False), **options)
    found = pgd_attack(Replayed(two_heads()), x, y, execution=Execution(prune=False), **options)
    for field in ("x", "value", "gain", "step"):
        assert torch.equal(getattr(found, field), getattr(expected, field))


def test_a_mode_of_compilation_is_handed_on(monkeypatch):
    modes, (x, y) = [], batch(2)
    monkeypatch.setattr(torch, "compile", lambda part, mode=None: modes.append(mode) or part)
    for compiled in (False, True, "reduce-overhead"):
        pgd_attack(two_heads(), x, y, execution=Execution(compiled=compiled), **OPTIONS)
    assert modes == [None, "reduce-overhead"]
