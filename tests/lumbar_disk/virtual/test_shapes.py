"""Shape models against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from lumbar_disk.virtual import ShapeModel


@pytest.fixture(scope="module")
def contours():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 176, endpoint=False)
    ring = 63.5 + np.stack([40 * np.cos(angle), 12 * np.sin(angle)], 1)
    waves = np.stack([np.cos(k * angle) for k in range(12)])
    bumps = rng.normal(size=(40, 2, 12)) / (1 + np.arange(12))
    return torch.from_numpy(ring + (bumps @ waves).swapaxes(1, 2))


@pytest.mark.parametrize("components", [1, 3, 5, 10, 0.7, 0.914])
def test_equal_to_scikit_learn_up_to_sign(contours, components):
    model = ShapeModel.fit(contours, components)
    oracle = PCA(components, svd_solver="full").fit(contours.flatten(1).numpy())
    modes = model.modes.flatten(1).numpy()
    np.testing.assert_allclose(model.mean.flatten().numpy(), oracle.mean_, atol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(modes * oracle.components_, 1)), 1.0, atol=1e-8)
    np.testing.assert_allclose(model.deviations.numpy() ** 2, oracle.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(model.shares.numpy(), oracle.explained_variance_ratio_, rtol=1e-8)
    assert model.explained == pytest.approx(oracle.explained_variance_ratio_.sum())
    signs = np.sign(np.sum(modes * oracle.components_, 1))
    codes = model.encode(contours) * model.deviations * torch.from_numpy(signs)
    np.testing.assert_allclose(codes.numpy(), oracle.transform(contours.flatten(1).numpy()), atol=1e-8)


def test_signs_do_not_depend_on_the_order_of_the_shapes(contours):
    one, other = ShapeModel.fit(contours, 5), ShapeModel.fit(contours.flip(0), 5)
    assert torch.allclose(one.modes, other.modes, atol=1e-8)
    assert bool((one.modes.flatten(1).amax(1) == one.modes.flatten(1).abs().amax(1)).all())


def test_all_components_give_back_the_shapes(contours):
    model = ShapeModel.fit(contours, 0.999999999999)
    assert torch.allclose(model.decode(model.encode(contours)), contours, atol=1e-4)
    assert model.encode(contours).std(0).tolist() == pytest.approx([1.0] * len(model.modes))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=7, unique=True), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_a_sample_belongs_to_its_seed_and_index(contours, distribution, index, seed):
    model = ShapeModel.fit(contours, 3)
    together = model.sample(seed, torch.tensor(index), distribution=distribution)
    for place, number in enumerate(index):
        alone = model.sample(seed, torch.tensor([number]), distribution=distribution)
        assert torch.equal(together[place], alone[0])


def test_samples_have_the_distribution_they_are_said_to_have(contours):
    model = ShapeModel.fit(contours, 4)
    index = torch.arange(4000)
    uniform = model.encode(model.sample(0, index))
    normal = model.encode(model.sample(0, index, distribution="normal"))
    assert uniform.abs().max() <= 2
    assert uniform.amax(0).min() > 1.99
    assert torch.allclose(uniform.std(0), torch.tensor(4 / 12**0.5, dtype=torch.float64), atol=0.03)
    assert torch.allclose(normal.std(0), torch.ones(4, dtype=torch.float64), atol=0.05)
    assert torch.corrcoef(uniform.mT).fill_diagonal_(0).abs().max() < 0.06
    assert not torch.equal(model.sample(0, index), model.sample(0, index, attempt=1))
    assert not torch.equal(model.sample(0, index), model.sample(1, index))


def test_saved_and_loaded_bit_for_bit_without_pickle(contours, tmp_path):
    model = ShapeModel.fit(contours, 3)
    path = model.save(tmp_path / "ssm.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["ssm.npz"]
    loaded = ShapeModel.load(path)
    for name in ("mean", "modes", "deviations", "shares"):
        assert torch.equal(getattr(loaded, name), getattr(model, name))
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"mean", "modes", "deviations", "shares"}
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match="is not a shape model: it has no deviations, modes, shares"):
        ShapeModel.load(tmp_path / "other.npz")


@pytest.mark.parametrize("components", [0, -1, 0.0, 40, 2.5, 1.5])
def test_impossible_components_are_refused(contours, components):
    with pytest.raises(ValueError, match="components must be a whole number from 1 to"):
        ShapeModel.fit(contours, components)


def test_wrong_shapes_are_refused(contours):
    model = ShapeModel.fit(contours, 3)
    for wrong in (contours[:1], contours[0], contours * float("nan")):
        with pytest.raises(ValueError, match="needs contours"):
            ShapeModel.fit(wrong, 1)
    with pytest.raises(ValueError, match=r"codes must be \(B, 3\)"):
        model.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"contours must be \(B, 176, 2\)"):
        model.encode(contours[:, :100])
    with pytest.raises(ValueError, match="distribution must be"):
        model.sample(0, torch.arange(1), distribution="cauchy")
