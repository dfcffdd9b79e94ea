import pytest
import torch
from networks.watched import KINDS, images, net, spoilt
from torch import nn

from advreg import J_IND_reg, on
from advreg.detectors import DisagreementDetector


def test_disagreement_of_an_ensemble_is_the_mean_over_pairs():
    models, x = [net(seed=s) for s in range(3)], images(4)
    a, b, c = [model(x)["contour"].detach() for model in models]
    expected = (J_IND_reg(a, b) + J_IND_reg(a, c) + J_IND_reg(b, c)) / 3
    torch.testing.assert_close(DisagreementDetector(models, on("contour", J_IND_reg)).score(x), expected)


def test_dropout_thins_as_torch_does_and_alike_for_every_example():
    model = nn.Sequential(nn.Dropout(0.25), nn.Dropout2d(0.5))
    x = torch.ones(2, 400, 4, 4, dtype=torch.float64)
    seen = []

    def keep(a, b):
        seen.extend([a, b])
        return J_IND_reg(a, b)

    score = DisagreementDetector(model, keep, samples=2, seed=3).score(x)
    first, second = seen
    assert score[0] == score[1] > 0
    assert torch.equal(first[0], first[1])
    assert set(first.unique().tolist()) == {0.0, 1 / 0.75 / 0.5}
    channels = first[0].flatten(1).amax(1) > 0
    assert channels.double().mean().item() == pytest.approx(0.5, abs=0.1)  # whole channels
    assert (first[0][channels] > 0).double().mean().item() == pytest.approx(0.75, abs=0.03)  # then entries
    assert not torch.equal(first, second)


def test_dropout_does_not_depend_on_batch_or_call_or_torchs_seed():
    detector, x = KINDS["dropout"](net()), images(4)
    torch.manual_seed(1)
    whole = detector.score(x)
    torch.manual_seed(2)
    torch.testing.assert_close(torch.cat([detector.score(x[3:]), detector.score(x[:3])]), whole[[3, 0, 1, 2]])
    assert not torch.allclose(
        DisagreementDetector(net(), detector.distance, samples=3, seed=1).score(x), whole
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KINDS["ensemble"](net()).score(spoilt(torch.nan)), "distance between outputs.*example 4"),
        (lambda: DisagreementDetector(nn.Linear(2, 2), J_IND_reg), r"got none: pass several models"),
        (lambda: DisagreementDetector(nn.AlphaDropout(), J_IND_reg), "got AlphaDropout"),
        (lambda: DisagreementDetector([], J_IND_reg), "at least 2 models"),
        (lambda: DisagreementDetector(net(), J_IND_reg, samples=1), "at least 2 samples; got 1"),
        (
            lambda: DisagreementDetector([torch.sin, torch.cos], lambda a, b: (a - b).sum()).score(images(2)),
            r"a distance must return.*\(2,\)",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        call()
