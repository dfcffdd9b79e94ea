"""What is left out of a forward: no more runs than some heads need, and they come out the same."""

import warnings

import pytest
import torch
from networks import WRAPS, batch, two_heads
from networks.cuttable import (
    Blocked,
    Keeps,
    Net,
    Picky,
    Reversed,
    SkipNet,
    Stubborn,
    assert_agree,
    assert_cuts,
    cost,
    images,
)
from torch import nn

from advreg._core.trees import tensors
from advreg.execution import pruned


@pytest.mark.parametrize("kind", WRAPS)
def test_heads_of_any_kind_of_output(kind):
    model, (x, _) = two_heads(kind), batch(4)
    names = (0, 1) if kind in ("tuple", "list") else ("contour", "mask")
    for key in names:
        assert_cuts(model, x, key, cost_of_part=2)
    assert pruned(model, names, x) is model
    assert pruned(model, None, x) is model


def test_places_of_named_tuples_and_places_from_the_end():
    x = batch(4)[0]
    assert_cuts(two_heads("namedtuple"), x, 0)
    assert_cuts(two_heads("tuple"), x, -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model, (x, _) = two_heads(dtype=dtype), batch(dtype=dtype)
    assert_cuts(model, x, "mask")


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("side", [8, 11])
def test_a_u_net_with_skips(dim, side):
    model, x = SkipNet(dim), torch.rand(3, 1, *[side] * dim)
    assert_cuts(model, x, "points", cost_of_part=4)
    assert_cuts(model, x, "mask", cost_of_part=6)
    assert_cuts(model, x, "points", "depth", cost_of_part=6)


def test_each_input_size_has_its_own_way():
    model = SkipNet()
    part = pruned(model, ["points"], torch.rand(2, 1, 8, 8))
    odd = torch.rand(2, 1, 11, 11)
    assert_agree(part, model, odd, "points")  # the whole model ran: the decoder's branch is not looked at
    assert cost(pruned(model, ["points"], odd), odd) == 4
    with pytest.raises(ValueError, match="one channel"):
        part(torch.rand(2, 2, 8, 8))


def test_a_branch_on_what_is_left_out_holds_for_inputs_of_one_size():
    def forward(net, x):
        code = net.encoder(x)
        mask = net.mask(code)
        code = code.tanh() if mask.shape[-1] > 10 else code.relu()
        return {"contour": net.contour(code), "mask": mask}

    model = Net(forward)
    part = assert_cuts(model, images(size=8), "contour", cost_of_part=2)
    assert_agree(part, model, images(size=12), "contour")
    assert_cuts(model, images(size=12), "contour", cost_of_part=2)


def test_tensors_that_the_forward_makes_and_writes_to_begin_anew_in_each_call():
    def forward(net, x):
        total = torch.zeros(2, 1, 1)
        total += x.mean()
        return [net.contour(x + total), net.mask(x)]

    assert_cuts(Net(forward), images(), 0)


def test_a_branch_that_is_needed_is_looked_at_in_each_call():
    def forward(net, x):
        code = net.encoder(x)
        code = code.tanh() if x.shape[-1] > 10 else code.relu()
        if code.mean() > 1e3:
            code = code * 0
        return {"contour": net.contour(code), "mask": net.mask(code)}

    model = Net(forward)
    part = assert_cuts(model, images(size=8), "mask")
    assert_agree(part, model, images(size=12), "mask")
    assert_agree(part, model, images() * 1e6, "mask")


def test_python_arithmetic_on_shapes_and_loops_over_them():
    def forward(net, x):
        b, c, h, w = x.shape
        code = net.encoder(x).reshape(b, c, h * w).view(-1, c, h, w)
        for channel in range(c):
            code = code + x[:, channel : channel + 1] / float(h)
        for row in x.unbind(1):
            code = code * row.mean()
        where = torch.linspace(0, 1, int(w), dtype=x.dtype, device=x.device)
        return {"contour": net.contour(code + where), "mask": net.mask(code + code.new_ones(b, 1, h, w))}

    assert_cuts(Net(forward), images(), "contour", cost_of_part=2)
    assert_cuts(Net(forward), images(), "mask", cost_of_part=2)


def test_shared_modules_and_modules_used_twice():
    model = Net(lambda net, x: (net.contour(net.encoder(x)), net.contour(net.encoder(net.mask(x)))))
    model.again = model.encoder
    assert_cuts(model, images(), 0, cost_of_part=2)
    assert_cuts(Net(lambda net, x: (net.contour(net.contour(x)), net.mask(x))), images(), 0, cost_of_part=2)


def test_parametrised_weights():
    model = Net()
    nn.utils.parametrizations.spectral_norm(model.encoder)
    nn.utils.parametrizations.weight_norm(model.mask)
    model.eval()
    x = images()
    assert_cuts(model, x, "mask")
    assert_cuts(model, x, "contour")


class Scale(nn.Module):
    """Has a buffer, a plain tensor and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0))
        self.bias = nn.Parameter(torch.zeros(2, 1, 1))
        self.table = torch.ones(2, 1, 1)

    def forward(self, x):
        steps = torch.tensor([1.0, 2.0]).view(2, 1, 1)
        steps += 1
        return x * (2 * self.factor) + self.bias.exp() * self.table - steps


def test_weights_and_buffers_are_the_models_own():
    model = Net(lambda net, x: (net.contour(net.scale(x)), net.mask(x)), scale=Scale())
    x = images()
    part = assert_cuts(model, x, 0)
    for change in (
        lambda: model.scale.factor.fill_(5.0),
        lambda: setattr(model.scale, "factor", torch.tensor(7.0)),
        lambda: setattr(model.scale, "bias", nn.Parameter(torch.ones(2, 1, 1))),
        lambda: setattr(model.scale, "table", torch.zeros(2, 1, 1)),
        lambda: model.contour.weight.data.mul_(3),
        lambda: model.load_state_dict(Net(scale=Scale()).state_dict()),
    ):
        before = part(x)[0]
        change()
        assert not torch.equal(part(x)[0], before)
        assert_agree(part, model, x, 0)


def test_parameters_learn_through_the_part():
    model, x = Net(), images()
    part = pruned(model, ["contour"], x)
    part(x)["contour"].sum().backward()
    assert model.contour.weight.grad is not None
    assert model.mask.weight.grad is None


def test_heads_that_hold_several_tensors_and_tensors_that_the_forward_makes():
    def forward(net, x):
        code = net.encoder(x)
        made = torch.empty_like(code)
        made[:, :1] = code[:, 1:]
        made[:, 1] = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
        start = torch.zeros(x.shape[0], 2, *x.shape[2:], dtype=code.dtype)
        start = start + torch.tensor(2.0, dtype=x.dtype, device=x.device)
        other = torch.ones_like(code)
        other[:] = net.mask(code)
        return {"contour": {"all": [net.contour(made) + start], "unit": "px"}, "mask": (other, None)}

    x, model = images(), Net(forward)
    for key in ("contour", "mask"):
        part = pruned(model, [key], x)
        for some in (x, x[:1]):
            ran, whole = part(some), model(some)
            assert ran.keys() == {key}
            assert torch.equal(*(next(tensors(output[key])) for output in (ran, whole)))
        assert cost(part, x) == 2


def test_sequence_models():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.recurrent = nn.LSTM(8, 8, batch_first=True)
            self.place = nn.Parameter(torch.rand(1, 20, 8))

        def forward(self, x):
            batch, length, _ = x.shape
            x = x + self.place[:, :length]
            last = self.recurrent(x)[1][0][-1]
            return {"last": last.view(batch, -1), "code": self.encoder(x)}

    model, x = Sequences().eval(), torch.rand(3, 5, 8)
    for key in ("last", "code"):
        part = pruned(model, [key], x)
        assert part is not model
        longer = torch.rand(2, 9, 8)
        assert_agree(part, model, x, key)
        assert_agree(part, model, longer, key)


def test_checkpoints_stay_checkpoints(monkeypatch):
    def forward(net, x):
        code = torch.utils.checkpoint.checkpoint(net.encoder, x, use_reentrant=False)
        return [net.contour(code), torch.utils.checkpoint.checkpoint(net.mask, code, use_reentrant=False)]

    model, x, runs = Net(forward), images(), []
    part = assert_cuts(model, x, 0, cost_of_part=2)
    forward = model.encoder._conv_forward
    monkeypatch.setattr(model.encoder, "_conv_forward", lambda *args: (runs.append(1), forward(*args))[1])
    part(x.requires_grad_())[0].sum().backward()
    assert len(runs) == 2  # once more in the backward pass


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        return torch.jit.script(nn.ReLU())


@pytest.mark.parametrize("make", [Stubborn, Blocked, Reversed, Picky, Keeps, scripted])
def test_an_awkward_module_is_run_as_it_is(make):
    odd = make()
    model = Net(lambda net, x: (net.contour(net.odd(net.encoder(x))), net.mask(net.encoder(x))), odd=odd)
    assert_cuts(model, images(), 0, cost_of_part=2)


def test_what_a_module_keeps_is_still_kept_and_nothing_is_left_by_tracing():
    model = Net(lambda net, x: {"contour": net.contour(x), "mask": net.mask(net.odd(x))}, odd=Keeps())
    x = images()
    part = assert_cuts(model, x, "contour", cost_of_part=1)
    assert torch.equal(model.odd.last, torch.cat([x, x.flip(-1)])) or torch.equal(model.odd.last, x)
    del model.odd.last
    part(x)
    assert model.odd.last is x


def test_writes_in_place_stay_where_they_are_needed():
    def forward(net, x):
        code = net.encoder(x)
        view = code[:, :1]
        view.mul_(0.5)  # a write to what the contour needs, with no use of its result
        unused = net.mask(code)
        unused.clamp_(0)
        return {"contour": net.contour(code), "mask": unused}

    assert_cuts(Net(forward), images(), "contour", cost_of_part=2)
