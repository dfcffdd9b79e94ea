"""A user's file with the documented imports passes the strictest type check, and a wrong one does not."""

import importlib
import pathlib
import subprocess
import sys

import advreg

ROOT = pathlib.Path(__file__).parents[2]

USES = """
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

model: nn.Module = nn.Linear(3, 2)
x, y = torch.rand(4, 3), torch.zeros(4, 2)
threat = Threat(linf, torch.tensor([0.1, 0.2, 0.3, 0.4]), bounds=(0.0, 1.0))
quick = Execution("bfloat16", micro_batch=2, checkpoint=(nn.Linear,))
exact: Execution = replace(quick, precision="float32")

found: AttackResult = pgd_attack(model, x, y, objective=J_IND_reg, threat=threat, execution=quick)
gain: Tensor = found.gain
attack: Attack = lambda model, x, y: pgd_attack(model, x, y, objective=J_IND_reg, threat=threat)
worst: Worst = auto_attack(model, x, y, heads={"": points()}, threat=threat, execution=exact)[""]
near = {"near": Within(point_error, high=1.0)}
pair = ood_attack(model, x, x, objective=J_IND_reg, threat=threat, match=near)
matched: Tensor = pair.matched["near"]
front: Front = tradeoff(model, x, y, heads={"a": points(), "b": masks()}, threat=threat)


def metric(output: Output, target: Target) -> Tensor:
    return torch.as_tensor(output - target).flatten(1).sum(1)


own: PerExample = weighted((1.0, on("a", metric)), (0.5, negate(metric)))
task = Task(metric, "lower", (Member("mine", own, Decayed(Momentum(0.5)), Shrinking()),), worst=0.0)
read: frozenset[str | int] | None = heads_read(own, None)


@dataclass(frozen=True)
class Mine:
    size: float = 0.1
    relative: bool = True

    def init(self, x: Tensor) -> int:
        return 0

    def step(self, here: Here, state: int) -> tuple[Tensor, int]:
        return here.steepest(here.gradient), state + 1


rule: Rule[int] = Mine()
function: ValueAndGradient = value_and_gradient(lambda point: point.sum(1))
for point in ascend(function, x, threat=threat, rule=rule, steps=3):
    step: int = point.step
    value: Tensor | None = point.value
last: Tensor = last_iterate(model, Batch(x, y, threat), objective=metric, rule=Adaptive(), steps=3)
with running(model, None, x, quick) as network:
    parts: Parts = network.parts
    with network.quick() as fast:
        output: Output = fast(x)


def flipped(model: Model, x: Tensor, y: Target, keys: Keys) -> Tensor:
    return x.flip(-1)


perturb: Perturb = flipped
loss = AdversarialLoss(metric, {"mine": (0.5, perturb), "attack": (0.5, Adversary(metric, threat, Adamax()))})
total, by_name = loss(model, x, y)
slopes: tuple[Tensor, ...] = torch.autograd.grad(total, list(model.parameters()))
curve: Table = radius_curve(model, [(x, y)], {"": {"error": metric}}, {"it": attack}, [0.1])
row: Row = curve.rows[0]
passed: bool = diagnose(model, x, y, objective=metric, threat=threat).passed
check_rule(rule)
check_objective(metric, x, x)
"""

MISTAKES = """
import torch

from advreg import Execution, J_IND_reg, Steepest, Threat, auto_attack, dice, l2, pgd_attack
from advreg.attacks import ascend

model, x, y = torch.nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4, 2)
Threat("linf", 0.1)  # type: ignore[arg-type]
Execution("int8")  # type: ignore[arg-type]
pgd_attack(model, x, y, objective="mask", threat=Threat(l2, 0.1))  # type: ignore[arg-type]
pgd_attack(model, x, y, objective=J_IND_reg, threat=Threat(l2, 0.1), prune=False)  # type: ignore[call-arg]
pgd_attack(model, x, y, objective=J_IND_reg, threat=Threat(l2, 0.1), rule=0.1)  # type: ignore[arg-type]
auto_attack(model, x, y, heads={"mask": dice}, threat=Threat(l2, 0.1))  # type: ignore[dict-item]
ascend(torch.sum, x, threat=Threat(l2, 0.1), rule=Steepest())  # type: ignore[arg-type]
"""


def documented():
    """An import of every public name, from where it is documented."""
    rooms = [f"from advreg import {name}" for name in advreg.__all__]
    for room in advreg._ROOMS:
        names = getattr(importlib.import_module(f"advreg.{room}"), "__all__", ())
        rooms += [f"from advreg.{room} import {name}" for name in names if name not in advreg.__all__]
    return "\n".join(rooms)


def test_a_users_file_passes_mypy_strict(tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(documented() + "\nfrom advreg.testing import check_objective, check_rule\n" + USES)
    wrong.write_text(MISTAKES)  # an ignore that nothing needs is an error
    command = [sys.executable, "-m", "mypy", "--no-error-summary", right, wrong]
    # In the root: its settings, which are strict, and its cache, which `make lint` fills.
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.stdout + ran.stderr == ""
    assert ran.returncode == 0


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "src" / "advreg" / "py.typed").exists()
