"""An option of how a model is run reaches every entrance."""

import pytest
import torch
from networks import notes
from networks.entrances import ENTRANCES
from torch import nn

from advreg import Execution, J_IND_reg, Threat, linf

# These run a model as it is, and say so by taking no execution.
PLAIN = {"power_start", "detectors"}
TAKES = [name for name in ENTRANCES if name not in PLAIN]


class Watched(nn.Module):
    """Remembers of each pass the examples, the dtype, and whether it was a second one for the way back."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Tanh())
        self.a, self.b = nn.Linear(12, 3), nn.Linear(12, 3)
        self.block[0].register_forward_hook(self.note)

    def note(self, _, inputs, output):
        notes(self).append((len(output), output.dtype, torch.is_grad_enabled()))

    def forward(self, x):
        code = self.block(x.unflatten(1, (2, 3))).flatten(1)
        return {"a": self.a(code), "b": self.b(code)}


def seen(name, execution):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Watched().eval()
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(5, 6, generator=g), torch.randn(5, 3, generator=g)
    ENTRANCES[name](model, x, {"a": y, "b": -y}, J_IND_reg, execution, Threat(linf, 0.1))
    assert notes(model)
    return notes(model)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", TAKES)
def test_precision(name, precision):
    assert getattr(torch, precision) in {
        dtype for _, dtype, _ in seen(name, Execution(precision, prune=False))
    }
    assert {dtype for _, dtype, _ in seen(name, Execution(prune=False))} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in TAKES if name not in ("running", "score_attack")])
def test_parts(name):
    assert 5 in {count for count, *_ in seen(name, Execution(prune=False))}
    stepping = {count for count, _, gradient in seen(name, Execution(micro_batch=2, prune=False)) if gradient}
    assert stepping <= {1, 2}


@pytest.mark.parametrize(
    "name",
    [name for name in TAKES if name not in ("running", "square_attack", "random_noise", "score_attack")],
)
def test_checkpoints(name):
    plain = seen(name, Execution(prune=False))
    again = seen(name, Execution(checkpoint=(nn.Sequential,), prune=False))
    assert len(again) > len(plain)  # the block once more for each gradient


@pytest.mark.parametrize("name", TAKES)
def test_compilation(name, monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda part, mode=None: modes.append(mode) or part)
    seen(name, Execution(compiled="max-autotune", prune=False))
    assert set(modes) == {"max-autotune"}
    modes.clear()
    seen(name, Execution(prune=False))
    assert not modes
