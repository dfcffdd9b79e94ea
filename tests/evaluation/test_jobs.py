"""How it is measured: what runs once, what runs together, and on which device."""

import sys

import numpy as np
import pytest
import torch
from networks import batch, notes, two_heads
from networks.measured import ATTACKS, GROUPS, METRICS, batches, curve

from advreg import (
    J_IND_reg,
    Threat,
    dice,
    evaluate,
    linf,
    point_error,
    radius_curve,
)
from advreg._core.fingerprint import digest
from advreg.attacks import AttackResult


def test_clean_inputs_are_measured_once_and_begin_every_curve():
    calls = []

    def counted(output, target):
        calls.append(len(target))
        return dice(output, target)

    table = curve(metrics={"mask": {"dice": counted}})
    assert sum(calls) == 14 * (1 + 2 * 2)
    clean = [table.where(attack=attack, radius=0.0) for attack in ATTACKS]
    assert [row._replace(attack="") for row in clean[0]] == [row._replace(attack="") for row in clean[1]]
    alone = evaluate(two_heads(), batches(), {"mask": {"dice": dice}}, groups=np.array(GROUPS))
    assert [row.group for row in alone] == GROUPS
    assert [row.value for row in alone] == [row.value for row in clean[0]]
    assert {(row.attack, row.radius) for row in alone} == {("clean", 0.0)}


def test_heads_may_be_places_or_the_whole_output():
    model, (x, y) = two_heads("tuple"), batch(3, "tuple")
    table = evaluate(
        model,
        [(x, y)],
        {0: {"error": point_error}, "": {"sum": lambda output, target: (output[0] - target[0]).sum((1, 2))}},
    )
    assert [(row.index, row.head, row.metric) for row in table][:3] == [
        (0, "0", "error"),
        (0, "", "sum"),
        (1, "0", "error"),
    ]


def test_only_the_heads_measured_are_computed_and_the_model_is_left_alone():
    class Sparing(torch.nn.Linear):
        def forward(self, x, heads=("a", "b")):
            notes(self).append(heads)
            return {key: super(Sparing, self).forward(x) for key in heads}

    model = Sparing(3, 2)
    before = digest(model.state_dict())
    x = torch.rand(2, 3)
    evaluate(model, [(x, {"a": x[:, :2]})], {"a": {"error": J_IND_reg}})
    assert set(notes(model)) == {("a",)}
    assert model.weight.requires_grad
    assert digest(model.state_dict()) == before


def test_values_are_written_in_full_and_batches_are_moved():
    x = torch.rand(2, 3, dtype=torch.float64)
    (row, _) = evaluate(
        torch.nn.Identity(), [(x, x)], {"": {"sum": lambda output, _: output.sum(1)}}, device="cpu"
    )
    assert row.value == x[0].sum().item()
    on_meta = evaluate(
        lambda x: x,
        [(x, {"y": x, "name": "L4"})],
        {
            "": {
                "where": lambda o, t: torch.full(
                    (2,), float((o.device, t["y"].device) == (torch.device("meta"),) * 2)
                )
            }
        },
        device="meta",
    )
    assert [row.value for row in on_meta] == [1.0, 1.0]


def test_progress_needs_tqdm_and_counts_jobs(capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="bars are optional")
    curve(progress=True)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "attack=mask, radius=0.05" in shown
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        curve(progress=True)


class Told:
    """An attack that remembers how many examples came, and the largest radius of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, x, y, *, threat, seed, index):
        assert len(y["mask"]) == len(index) == len(x)
        self.calls.append((len(x), round(threat.largest, 6)))
        return ATTACKS["mask"](model, x, y, threat=threat, seed=seed, index=index)


@pytest.mark.parametrize(
    ("fits", "calls"),
    [
        (100, [(12, 0.06)] * 3 + [(6, 0.06)]),
        (8, [(8, 0.05), (4, 0.06)] * 3 + [(6, 0.06)]),
        (3, [(4, 0.02), (4, 0.05), (4, 0.06)] * 3 + [(2, 0.02), (2, 0.05), (2, 0.06)]),
    ],
)
def test_radii_together_give_what_they_give_one_by_one(monkeypatch, tmp_path, fits, calls):
    monkeypatch.setattr("advreg.evaluation._jobs.room", lambda _: fits)
    radii, limit = (0.0, 0.02, 0.05, 0.06), torch.ones(8, 8, dtype=torch.bool).triu()
    options = {"radii": radii, "threat": Threat(linf, 0.0, mask=limit), "seed": 3}
    told = Told()
    found = curve(attacks={"told": told, "contour": ATTACKS["contour"]}, together=True, **options)
    assert told.calls == calls
    expected = curve(attacks={"told": Told(), "contour": ATTACKS["contour"]}, **options)
    assert [row[:-1] for row in found.rows] == [row[:-1] for row in expected.rows]
    torch.testing.assert_close(
        torch.tensor([row.value for row in found.rows]), torch.tensor([row.value for row in expected.rows])
    )
    journalled = curve(journal=tmp_path, together=True, **options)
    again = curve(metrics=METRICS, journal=tmp_path, **options)  # which does nothing anew
    assert again.rows == journalled.rows


def test_what_fits_is_asked_of_the_device_and_a_batch_moves_once(monkeypatch):
    devices, moved = [], []

    class Moving(torch.Tensor):
        def to(self, *args, **kwargs):
            moved.append(args[0])
            return torch.Tensor.to(self.as_subclass(torch.Tensor), *args, **kwargs)

    def attack(model, x, y, *, threat, seed, index):
        devices.append(x.device.type)
        return AttackResult(x, *[torch.zeros(len(x), device=x.device)] * 4)

    rooms = []
    monkeypatch.setattr("advreg.evaluation._jobs.room", lambda x: rooms.append(x.device.type) or 100)
    repeated = "advreg.evaluation._jobs._Plan._repeated"  # meta tensors have no values to be compared
    monkeypatch.setattr(repeated, lambda self, batch, times: batch.repeat(times))
    model, (x, y, index) = two_heads().to("meta"), next(batches())
    metrics = {"mask": {"none": lambda output, _: torch.zeros(len(output))}}
    case = [(x.as_subclass(Moving), y, index)]
    curve = radius_curve(model, case, metrics, {"it": attack}, [0.1, 0.2], together=True, device="meta")
    assert len(curve.rows) == 2 * 4
    assert (rooms, devices, moved) == (["meta"], ["meta"], ["meta"])
