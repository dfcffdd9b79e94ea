"""Writes in place are noticed, whatever they leave there; reads are not."""

import gc
import weakref

import pytest
import torch
from networks.cuttable import Net, images
from torch import nn

from advreg.execution import pruned
from advreg.execution._pruning._writes import Witness, differing, marks, witnesses
from advreg.execution._state import restored

POSITIVE = {"float": torch.ones(2, 3), "int": torch.ones(2, 3, dtype=torch.int64), "bool": torch.ones(2) > 0}
WRITES = {
    "relu_ on what is positive": lambda t: t.relu_(),
    "add_ of zero": lambda t: t.add_(0),
    "copy_ of itself": lambda t: t.copy_(t.clone()),
    "an entry": lambda t: t.__setitem__(0, t[0].clone()),
    "a view": lambda t: t.view(-1).mul_(1),
    "a slice": lambda t: t[1:].zero_(),
    "a view of a view": lambda t: t[:, 1:].unsqueeze(0).transpose(0, 1).fill_(1),
    "a strided view": lambda t: t.t()[::2].mul_(1),
    "out=": lambda t: torch.add(t, 0, out=t),
    "under no_grad": lambda t: torch.no_grad()(lambda: t.mul_(1))(),
    "an integer's own": lambda t: t.view(-1).index_fill_(0, torch.tensor([0]), 1),
}
READS = {
    "arithmetic": lambda t: (t + 1).sum(),
    "a view": lambda t: t.view(-1)[1:],
    "a write to a copy": lambda t: t.clone().zero_(),
    "a write to what was made of it": lambda t: (t * 1).add_(1),
    "detached": lambda t: t.detach() + 1,
    "numpy": lambda t: t.numpy().sum(),
}


@pytest.mark.parametrize("kind", ["float", "int"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_noticed_whatever_it_leaves(kind, write):
    tensor = POSITIVE[kind].clone()
    witness = Witness(tensor)
    assert not witness.written()
    WRITES[write](tensor)
    assert witness.written()
    assert witness.written()  # and stays so
    assert not Witness(tensor).written()  # one that came later saw nothing


@pytest.mark.parametrize("kind", ["float", "int"])
@pytest.mark.parametrize("read", READS)
def test_a_read_is_not_a_write(kind, read):
    tensor = POSITIVE[kind].clone()
    witness = Witness(tensor)
    READS[read](tensor)
    assert not witness.written()


def test_a_write_to_a_base_shows_in_a_view_and_the_other_way_round():
    base = torch.zeros(4, 4)
    view = base[1:, 2]
    seen = Witness(base), Witness(view), Witness(torch.zeros(4, 4))
    view.add_(0)
    assert [witness.written() for witness in seen] == [True, True, False]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.zeros(()),
        torch.zeros(2, dtype=torch.complex64),
        torch.ones(2) > 0,
        nn.Parameter(torch.zeros(3)),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 2, device="meta"),
    ],
    ids=["empty", "scalar", "complex", "bool", "parameter", "sparse", "meta"],
)
def test_tensors_of_every_kind_have_a_witness(tensor):
    witness = Witness(tensor)
    assert not witness.written()
    with torch.no_grad():
        tensor.zero_()
    assert witness.written()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mode_does_not_matter(mode):
    tensor = torch.zeros(3)
    with mode():
        witness = Witness(tensor)
        assert not witness.written()
    with torch.no_grad():
        tensor.relu_()
    with mode():
        assert witness.written()


def test_it_keeps_a_tensor_no_longer_than_it_lives_and_asks_for_no_gradient():
    tensor = torch.zeros(3, requires_grad=True)
    witness, gone = Witness(tensor), weakref.ref(tensor)
    assert tensor.grad is None
    assert not witness.written()
    assert tensor.grad is None
    del tensor
    gc.collect()
    assert gone() is None


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.table, self.kept, self.count = {"a": torch.zeros(2)}, [torch.zeros(2)], 0


def test_witnesses_stand_beside_buffers_and_what_containers_hold():
    model = Holds()
    before = witnesses([model])
    model.table["a"].add_(0)
    model.kept[0].relu_()
    written = {name for (_, name), seen in before.items() if any(one.written() for one in seen)}
    assert written == {"table", "kept"}


def test_marks_differ_where_an_attribute_was_written():
    model = Holds()
    before = marks([model])
    assert differing(before, marks([model])) == set()
    model.count, model.new = 1000, None
    model.kept.append(1)
    assert {name for _, name in differing(before, marks([model]))} == {"count", "new", "kept"}


def test_attributes_and_containers_come_back_also_when_something_raised():
    model = Holds()
    own = dict(vars(model))
    tensor = model.table["a"]

    def spoil():
        model.count, model.new = 7, torch.zeros(1)
        model.table["b"] = model.table.pop("a")
        model.kept.clear()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), restored(model):
        spoil()
    assert dict(vars(model)) == own
    assert model.table["a"] is tensor
    assert len(model.kept) == 1


def test_a_write_that_changes_nothing_is_kept_in_the_part():

    def forward(net, x):
        code = net.encoder(x) + 1e3
        code.relu_()  # a write, and no change
        return {"contour": net.contour(code), "mask": net.mask(code)}

    model, x = Net(forward), images()
    part = pruned(model, ["contour"], x)
    assert part is not model
    assert torch.equal(part(-x)["contour"], model(-x)["contour"])
