"""When a model is cut, when it is left alone, and that it is left as it was."""

import gc
import itertools
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from networks.cuttable import (
    Blocked,
    Keeps,
    Net,
    Reversal,
    SkipNet,
    assert_agree,
    assert_cuts,
    assert_left_alone,
    conv,
    images,
)
from torch import nn

from advreg import J_IND_reg, Threat, linf, on, pgd_attack
from advreg.execution import pruned
from advreg.execution._pruning import _pruned


def certain(x):
    assert isinstance(x, torch.Tensor), "expected a tensor"
    return x


@pytest.mark.parametrize(
    ("forward", "because"),
    [
        (lambda net, x: [net.contour(x * (2 if float(x.max()) > 0.5 else 1)), net.mask(x)], "Python numbers"),
        (lambda net, x: [net.contour(x[: len(x)] * len(x)), net.mask(x)], "number of examples"),
        (lambda net, x: [net.contour(Blocked.forward(net, x)), net.mask(x)], "switches gradients"),
        (lambda net, x: [net.contour(Reversal.apply(x)), net.mask(x)], "autograd.Function"),
        (lambda net, x: [net.contour(x * next(net.numbers)), net.mask(x)], "differ"),
        (lambda net, x: [net.contour(x + torch.rand(())), net.mask(x)], r"draws random.*model.eval\(\)"),
        (lambda net, x: [net.contour(Keeps.forward(net, x)), net.mask(x)], "writes its attribute 'last'"),
        (lambda net, x: [net.contour(certain(x)), net.mask(x)], "AssertionError: expected a tensor"),
    ],
)
def test_what_cannot_be_cut_is_left_alone_with_one_warning(forward, because):
    model, x = Net(forward), images()
    model.numbers = itertools.count(1)
    state = torch.get_rng_state()
    assert_left_alone(model, x, 0, because=because)
    assert torch.equal(state, torch.get_rng_state())
    assert not hasattr(model, "last")


def test_dropout_in_train_mode_is_left_alone_and_cut_in_eval_mode():
    model, x = Net(lambda net, x: [net.contour(F.dropout(x, 0.5, net.training)), net.mask(x)]), images()
    model.train()
    assert_left_alone(model, x, 0, because="random")
    assert_cuts(model.eval(), x, 0)
    assert pruned(model.train(), [0], x) is model


def test_batch_statistics_are_left_to_the_caller():
    model, x = SkipNet(), torch.rand(2, 1, 8, 8)
    assert_cuts(model, x, "points")
    before = model.state_dict()["depth.0.1.running_mean"].clone()
    assert pruned(model.train(), ["points"], x) is model
    assert torch.equal(before, model.state_dict()["depth.0.1.running_mean"])


def test_buffers_that_a_module_in_training_changes_stay_in_the_cut():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x * 2

    model, x = Net(lambda net, x: [net.contour(x), net.mask(net.odd(x))], odd=Counting()), images()
    part = assert_cuts(model, x, 0, cost_of_part=1)
    before = model.odd.calls.clone()
    part(x)
    assert model.odd.calls == before + 1


def count(calls):
    def counting(*_):
        calls.append(1)

    return counting


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("where", ["kept", "left out", "gone through", "gone through and left out"])
def test_hooks_on_submodules_run_as_in_the_whole_model(register, where):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = conv()

        def forward(self, x):
            return self.inner(self.inner(x))

    model = Net(
        lambda net, x: [net.contour(net.one(net.encoder(x))), net.mask(net.mask(net.two(x)))],
        one=Twice(),
        two=Twice(),
    )
    hooked = {"kept": model.encoder, "left out": model.two.inner, "gone through": model.one}.get(
        where, model.two
    )
    x, calls = images(), []
    assert_cuts(model, x, 0, cost_of_part=4)
    getattr(hooked, register)(count(calls))  # after a cut was made: it is made again
    part = assert_cuts(model, x, 0, cost_of_part=6 if "left out" in where else 4)
    calls.clear()
    model(x)
    expected = len(calls)
    calls.clear()
    part(x)
    assert len(calls) == expected > 0


def test_backward_hooks_run():
    model, x, calls = Net(), images(), []
    model.encoder.register_full_backward_hook(count(calls))
    part = pruned(model, ["mask"], x)
    calls.clear()
    part(x.requires_grad_())["mask"].sum().backward()
    assert len(calls) == 1


def test_hooks_on_the_model_itself_leave_it_alone():
    model, x, calls = Net(), images(), []
    handle = model.register_forward_hook(count(calls))
    assert_left_alone(model, x, "mask", because="hooks on itself.*counting")
    handle.remove()
    assert_cuts(model, x, "mask")


def test_hooks_on_all_modules_leave_it_alone():
    model, x = Net(), images()
    handle = nn.modules.module.register_module_forward_hook(count([]))
    try:
        assert pruned(model, ["mask"], x) is model
    finally:
        handle.remove()
    assert pruned(model, ["mask"], x) is not model


def test_other_callables_wrappers_and_heads_that_are_not_there():
    model, x = Net(), images()
    assert pruned(torch.sin, ["mask"], x) is torch.sin
    assert pruned(model, ["depth"], x) is model
    assert pruned(model, ["mask"], x[:0]) is model
    assert pruned(nn.Conv2d(2, 2, 1), ["mask"], x).__class__ is nn.Conv2d
    wrapped = nn.DataParallel(model)
    assert pruned(wrapped, ["mask"], x) is wrapped
    compiled = torch.compile(model, backend="eager")
    assert pruned(compiled, ["mask"], x) is compiled
    wrong = torch.rand(2, 5, 8, 8)
    assert pruned(model, ["mask"], wrong) is model
    assert pruned(model, ["mask"], x) is not model


def test_a_model_with_no_work_to_save():
    def forward(net, x):
        mask = net.mask(x)
        return {"mask": mask, "first": mask[:, :1]}

    model = Net(forward)
    assert pruned(model, ["mask"], images()) is model
    assert_cuts(Net(lambda net, x: {"mask": net.mask(x), "same": net.contour(x)}), images(), "mask")


def test_a_model_that_declares_its_heads_is_asked():
    class Declares(Net):
        def forward(self, x, heads=("contour", "mask")):
            return {key: getattr(self, key)(x) for key in heads}

    part = pruned(Declares(), ["mask"], images())
    assert set(part(images())) == {"mask"}
    assert part.keywords == {"heads": ("mask",)}


def test_a_cut_is_made_once_and_again_after_surgery(monkeypatch):
    made = []

    def traced(*args, **options):
        made.append(1)
        return original(*args, **options)

    original = _pruned.Traced
    monkeypatch.setattr(_pruned, "Traced", traced)
    model, x = Net(lambda net, x: [net.contour(x) * net.gain, net.mask(x)]), images()
    model.gain, model.unrelated = 2.0, [1]
    changes = [
        lambda: None,
        lambda: setattr(model, "contour", nn.Sequential(conv(), nn.ReLU())),
        lambda: setattr(model, "gain", 3.0),
        model.mask.train,
        model.double,
        lambda: setattr(model.mask, "bias", None),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        point = x.to(next(model.parameters()).dtype)
        for some in (point, point[:2], point.repeat(2, 1, 1, 1)):
            assert_agree(pruned(model, [0], some), model, some, 0)
            assert len(made) == number


def test_attributes_that_a_run_changes_do_not_have_the_cut_made_again(monkeypatch):
    model, x = Net(), images()
    model.seen = 0

    def hook(*_):
        model.seen += 1

    model.encoder.register_forward_hook(hook)
    part = pruned(model, ["mask"], x)
    assert model.seen == 0  # the runs of the check are not the user's
    part(x)
    assert model.seen == 1
    monkeypatch.setattr(_pruned, "Traced", None)
    assert pruned(model, ["mask"], x) is not model


def test_the_cache_does_not_keep_a_model_alive():
    model = Net()
    pruned(model, ["mask"], images())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_model_is_left_as_it_was():
    model, x = Net(odd=Keeps()), images().requires_grad_()
    model.log = []
    before = {name: (id(p), p._version, p.requires_grad, p.grad) for name, p in model.named_parameters()}
    attributes = [dict(vars(module)) for module in model.modules()]
    state = torch.get_rng_state()
    with torch.inference_mode():
        pruned(model, ["mask"], x)
    with torch.no_grad():
        pruned(model, ["contour"], x)
        assert not torch.is_grad_enabled()
    assert x.grad is None
    assert attributes == [dict(vars(module)) for module in model.modules()]
    assert before == {n: (id(p), p._version, p.requires_grad, p.grad) for n, p in model.named_parameters()}
    assert torch.equal(state, torch.get_rng_state())


def test_other_threads_run_their_models_while_one_is_traced():
    other, x, wrong = Net(), images(), []
    expected, stop = other(x)["mask"], threading.Event()

    def run():
        while not stop.is_set():
            try:
                wrong.extend([] if torch.equal(other(x)["mask"], expected) else ["differs"])
            except Exception as error:  # noqa: BLE001 - a thread's errors are seen by nobody else
                wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(10):
            assert pruned(Net(), ["mask"], x) is not other
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_an_attack_on_the_part_is_the_attack_on_the_whole():
    model, x = SkipNet(), torch.rand(3, 1, 8, 8)
    y = {"points": torch.zeros(3, 3, 2)}
    options = {"objective": on("points", J_IND_reg), "threat": Threat(linf, 0.05), "steps": 4}
    whole = pgd_attack(model, x, y, **options)
    part = pgd_attack(pruned(model, ["points"], x), x, y, **options)
    assert torch.equal(part.x, whole.x)
    assert torch.equal(part.gain, whole.gain)
