import numpy as np
import pytest
import torch
from networks.watched import KINDS, images, net, spoilt
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch import nn

from advreg.detectors import MahalanobisDetector, NearestNeighbourDetector


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.idle, self.pair = nn.Tanh(), nn.Tanh(), nn.LSTM(2, 2)

    def forward(self, x):
        return self.pair(self.layer(self.layer(x)))[0]


def features(model, x):
    with torch.no_grad():
        return model.encoder(x).mean((2, 3)).numpy()


@pytest.mark.parametrize("shrinkage", [None, 0, 0.3])
def test_mahalanobis_is_the_distance_by_the_inverse_covariance(shrinkage):
    model, x, new = net(), images(30), images(7, seed=2)
    detector = MahalanobisDetector(model, model.encoder, shrinkage).fit([x[:20], (x[20:], "target")])
    known, found = features(model, x), features(model, new)
    if shrinkage is None:
        covariance = LedoitWolf().fit(known).covariance_
    else:
        sample = np.cov(known.T, bias=True)
        covariance = (1 - shrinkage) * sample + shrinkage * np.trace(sample) / 4 * np.eye(4)
    apart = found - known.mean(0)
    expected = np.sqrt(np.einsum("bi,ij,bj->b", apart, np.linalg.inv(covariance), apart))
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-8)


def test_mahalanobis_takes_fewer_examples_than_features():
    model, x = nn.Sequential(nn.Flatten()), images(5)
    score = MahalanobisDetector(model, "0").fit([x]).score(images(2, seed=2)).numpy()
    wolf = LedoitWolf().fit(x.flatten(1))
    np.testing.assert_allclose(score**2, wolf.mahalanobis(images(2, seed=2).flatten(1)), rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbour_is_scikit_learns_kth_of_features_of_length_one(dtype):
    model, x = net(dtype), images(30, dtype=dtype)
    new = torch.cat([images(7, seed=2, dtype=dtype), x[:1] + 1e-4])
    detector = NearestNeighbourDetector(model, "encoder", k=4).fit([x])
    known, found = (
        f / np.linalg.norm(f, axis=1, keepdims=True) for f in (features(model, x), features(model, new))
    )
    expected = NearestNeighbors(n_neighbors=4).fit(known).kneighbors(found)[0][:, 3]
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("build", [KINDS["mahalanobis"], KINDS["neighbour"]])
def test_the_gradient_is_finite_where_the_distance_is_zero(build):
    x = images(1).expand(20, -1, -1, -1).clone()
    x[1:] += torch.linspace(-1, 1, 19, dtype=x.dtype).reshape(-1, 1, 1, 1)
    detector = NearestNeighbourDetector(net(), "encoder", k=1).fit([x])
    point = x[:1].clone().requires_grad_()
    score = detector.score(point)
    assert score.item() == 0
    assert torch.autograd.grad(score.sum(), point)[0].isfinite().all()


def test_a_layer_that_changed_its_width_is_refused():
    model = net()
    detector = KINDS["mahalanobis"](model)
    model.encoder = nn.Conv2d(1, 5, 1).double()
    model.forward = lambda x: {"features": model.encoder(x)}
    with pytest.raises(ValueError, match="'encoder' now gives 5 features; the detector was fitted to 4"):
        detector.score(images(2))


def test_a_layer_without_independent_features_needs_shrinkage():
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="cannot be inverted with shrinkage 0"):
        MahalanobisDetector(network, "0", 0).fit([torch.cat([x, 0 * x], 1)])


# Files


@pytest.mark.parametrize("name", ["mahalanobis", "neighbour"])
def test_what_was_fitted_comes_back_to_the_last_bit(tmp_path, name):
    model, x = net(torch.float32), images(5, seed=2, dtype=torch.float32)
    batches = [images(20, dtype=torch.float32)]
    kinds = {
        "mahalanobis": MahalanobisDetector(model, "encoder", 0.25),
        "neighbour": NearestNeighbourDetector(model, "encoder", 2),
    }
    detector = kinds[name].fit(batches)
    path = detector.save(tmp_path / "deep" / "detector.npz")
    back = type(detector).load(path, net(torch.float32))
    assert torch.equal(back.score(x), detector.score(x))
    assert [getattr(back, f) for f in ("layer", *{"shrinkage", "k"} & set(vars(back)))] == [
        getattr(detector, f) for f in ("layer", *{"shrinkage", "k"} & set(vars(back)))
    ]
    assert [p.name for p in path.parent.iterdir()] == ["detector.npz"]


def test_a_file_of_something_else_is_refused(tmp_path):
    model = net()
    path = KINDS["mahalanobis"](model).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="holds a MahalanobisDetector; expected a NearestNeighbourDetector"):
        NearestNeighbourDetector.load(path, model)
    with pytest.raises(ValueError, match="no layer 'encoder'"):
        MahalanobisDetector.load(path, nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="'encoder' of a model with other weights"):
        MahalanobisDetector.load(path, net(seed=1))
    with pytest.raises(ValueError, match=r"end in \.npz"):
        MahalanobisDetector.load(tmp_path / "a.pt", model)
    for number, content in enumerate([b"", b"no zip", path.read_bytes()[:100]]):
        (tmp_path / f"{number}.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not what a detector's save wrote"):
            MahalanobisDetector.load(tmp_path / f"{number}.npz", model)
    np.savez(tmp_path / "pickle.npz", header=np.array([{"kind": "MahalanobisDetector"}], dtype=object))
    with pytest.raises(ValueError, match="not what a detector's save wrote"):
        MahalanobisDetector.load(tmp_path / "pickle.npz", model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MahalanobisDetector(net(), "encodr"), r"Net has no layer 'encodr'; near it are \['encoder'"),
        (lambda: NearestNeighbourDetector(net(), "zzz"), r"no layer 'zzz'; it has \['encoder', 'encoder.0'"),
        (lambda: MahalanobisDetector(net(), nn.Tanh()), "Tanh given as the layer is no part of the Net"),
        (lambda: MahalanobisDetector(lambda x: x, "a"), "got function: pass the network itself"),
        (lambda: MahalanobisDetector(net(), "encoder", 1.5), r"\[0, 1\].*got 1.5"),
        (
            lambda: MahalanobisDetector(net(), "encoder").score(images(1)),
            r"detector = detector.fit\(batches\)",
        ),
        (lambda: NearestNeighbourDetector(net(), "encoder").save("a.npz"), r"detector.fit\(batches\)"),
        (lambda: MahalanobisDetector(net(), "encoder").fit([images(1)]), "at least 2 examples; got 1"),
        (lambda: MahalanobisDetector(net(), "encoder", 0).fit([images(4)]), "4 features needs at least 5 ex"),
        (lambda: MahalanobisDetector(net(), "encoder").fit([0 * images(9)]), "the same for all 9 examples"),
        (
            lambda: NearestNeighbourDetector(net(), "encoder", 9).fit([images(8)]),
            "at least 9 examples; got 8",
        ),
        (lambda: NearestNeighbourDetector(net(), "encoder", 0), "k must be 1 or more; got 0"),
        (lambda: NearestNeighbourDetector(net(), "encoder").fit(images(9)), r"one tensor: pass \[x\]"),
        (lambda: NearestNeighbourDetector(net(), "encoder").fit([]), "in-distribution inputs; got none"),
        (lambda: NearestNeighbourDetector(net(), "encoder").fit([{"x": 1}]), "batch 0 is a dict"),
        (lambda: NearestNeighbourDetector(net(), "encoder").fit([spoilt(torch.nan)]), "finite.*example 4"),
        (
            lambda: KINDS["mahalanobis"](net()).score(spoilt(torch.nan)),
            "features of the layer 'enc.*example 4",
        ),
        (
            lambda: MahalanobisDetector(Twice(), "layer").fit([torch.ones(3, 2)]),
            "'layer' must run once.*2 times",
        ),
        (
            lambda: MahalanobisDetector(Twice(), "idle").fit([torch.ones(3, 2)]),
            "'idle' must run once.*0 times",
        ),
        (lambda: MahalanobisDetector(Twice(), "pair").fit([torch.ones(3, 2)]), "'pair' must return a tensor"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        call()
