"""How the network is run: layout, compilation, the same memory each time. Results are the same."""

import subprocess
import sys

import pytest
import torch
from networks import batch, two_heads
from networks.cuttable import SkipNet, cost
from networks.deep import Block, Deep
from torch import nn

from advreg import Adamax, Execution, J_IND_reg, J_IND_seg, Threat, l2, linf, on, ood_attack, pgd_attack
from advreg.execution import running
from advreg.rules import Adaptive, Momentum

OPTIONS = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 4}


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
    looks = 3  # at the clean inputs, as the model is: the batch, and one example twice
    assert layouts[looks:][: OPTIONS["steps"]] == [[True, True]] * OPTIONS["steps"]
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
for objective, precision in ((on("mask", J_IND_seg), "float32"), (on("contour", J_IND_reg), "bfloat16")):
    options = {"objective": objective, "threat": Threat(linf, 0.1), "steps": 4}
    compiled = Execution(precision, compiled=True)
    expected = pgd_attack(model, x, y, execution=Execution(precision), **options)
    found = pgd_attack(model, x, y, execution=compiled, **options)
    again = pgd_attack(model, x, y, execution=compiled, **options)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-2, atol=1e-5)
    assert torch.equal(found.x, again.x)
assert counters["stats"]["unique_graphs"] >= 2, counters  # it was compiled, once for each case
assert counters["stats"]["unique_graphs"] <= 4, counters
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_running_gives_the_part_that_is_read_exactly_and_quickly(precision):
    model, (x, _) = SkipNet(), (torch.rand(3, 1, 8, 8), None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        whole = model(x)
    with running(model, ["points"], x, Execution(precision, micro_batch=2)) as network:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert network.rounds == (precision != "float32")
        assert network.parts.size == 2
        assert cost(network.exact, x) < cost(model, x)
        exact = network.exact(x)["points"]
        with network.quick() as quick:
            rough = quick(x)["points"]
        assert torch.equal(network.exact(x)["points"], exact)
    assert torch.equal(exact, whole["points"])
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.05 * exact.abs().max().item())
    assert torch.equal(rough, exact) == (precision == "float32")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_an_execution_it_runs_as_by_default():
    model, x = SkipNet(), torch.rand(3, 1, 8, 8)
    with running(model, None, x) as network:
        assert cost(network.exact, x) == cost(model, x)
        assert not network.rounds
        assert network.parts.size == Execution().parts(x).size == 6144
        with network.quick() as quick:
            assert cost(quick, x) == cost(model, x)
    with running(model, ["points"], x, Execution(prune=False)) as network:
        assert cost(network.exact, x) == cost(model, x)
