"""Gamma curves and bias fields: nothing at zero, closed forms, derivatives."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

from advreg.transforms import BiasField, Gamma

SHAPES = [(2, 1, 9), (3, 2, 6, 5), (1, 1, 4, 3, 5), (2, 1, 1, 7)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def images(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some(transform, x, scale=0.4, seed=1):
    like = transform.parameters(x)
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


@pytest.mark.parametrize(
    "transform", [Gamma(), Gamma(-3.0, 2.0), BiasField(0), BiasField(1), BiasField(4)], ids=repr
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_zero_nothing_changes_to_the_bit_and_elsewhere_something_does(transform, shape, dtype):
    x = images(*shape, dtype=dtype)
    x.view(-1)[:2] = torch.tensor([0.0, 1.0])
    p = transform.parameters(x)
    same = transform(x, p)
    assert same.dtype == dtype
    assert torch.equal(same, x)
    moved = transform(x, some(transform, x))
    assert moved.shape == x.shape
    assert moved.dtype == dtype
    assert (moved != x).flatten(1).any(1).all()
    # An image alone is the same.
    assert torch.equal(transform(x[-1:], some(transform, x)[-1:]), moved[-1:])


@pytest.mark.parametrize("transform", [Gamma(), Gamma(-0.5, 2.0), BiasField(3)], ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_those_of_finite_differences_also_at_zero(transform, shape):
    x = images(*shape, dtype=torch.float64)
    x.view(-1)[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for p in (transform.parameters(x), some(transform, x).double()):
        assert torch.autograd.gradcheck(lambda p: transform(x, p), p.requires_grad_())
    inside = 0.1 + 0.8 * x
    assert torch.autograd.gradcheck(lambda x: transform(x, some(transform, inside)), inside.requires_grad_())


def test_gamma_is_the_power_law_on_its_range_and_is_undone_by_its_opposite():
    x, p = images(4, 1, 5, 5, dtype=torch.float64), torch.tensor([[-1.0], [-0.2], [0.3], [2.0]]).double()
    expected = x.numpy() ** np.exp(p.numpy())[:, :, None, None]
    np.testing.assert_allclose(Gamma()(x, p).numpy(), expected, rtol=1e-12, atol=1e-15)
    wide = 7 * x - 3
    np.testing.assert_allclose(Gamma(-3.0, 4.0)(wide, p).numpy(), 7 * expected - 3, rtol=1e-10)
    torch.testing.assert_close(Gamma()(Gamma()(x, p), -p), x)
    ends = torch.tensor([[[0.0, 1.0]]])
    assert torch.equal(Gamma()(ends, torch.tensor([[0.7]])), ends)
    steep = Gamma()(torch.zeros(1, 1, 3), torch.full((1, 1), -3.0, requires_grad=True))
    assert steep.isfinite().all()
    with pytest.raises(ValueError, match=r"begins at 0; got intensities down to -0.5: pass Gamma\(low=-0.5"):
        Gamma()(torch.tensor([[[-0.5]]]), torch.zeros(1, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_field_is_the_exponential_of_legendre_polynomials(shape):
    x, field = images(*shape, dtype=torch.float64), BiasField(3)
    p = some(field, x).double()
    axes = [np.linspace(-1, 1, n) for n in shape[2:]]
    # numpy's own basis: products of one polynomial for each axis, up to a total degree
    degrees = [each for total in range(4) for each in np.ndindex(*[4] * len(axes)) if sum(each) == total]
    assert p.shape[1] == len(degrees)
    log = np.zeros((shape[0], *shape[2:]))
    for k, each in enumerate(degrees):
        product = np.ones(())
        for degree, u in zip(each, axes, strict=True):
            product = product[..., None] * legendre.legval(u, np.eye(4)[degree])
        log += p[:, k].numpy().reshape(-1, *[1] * len(axes)) * product
    np.testing.assert_allclose(field(x, p).numpy(), x.numpy() * np.exp(log)[:, None], rtol=1e-9)
    torch.testing.assert_close(field(field(x, p), -p), x)
    limit = p.abs().sum(1).exp().reshape(-1, *[1] * (x.ndim - 1))
    assert ((field(x, p) <= x * limit * (1 + 1e-9)) & (field(x, p) >= x / limit * (1 - 1e-9))).all()


def test_refusals():
    x = images(2, 1, 4, 4)
    for error, message, call in (
        (TypeError, "order must be a whole number", lambda: BiasField(1.5)),
        (ValueError, "order must be 0 or more", lambda: BiasField(-1)),
        (ValueError, "low the less; got 1.0 and 0.0", lambda: Gamma(1.0, 0.0)),
        (TypeError, "low must be a number", lambda: Gamma("0")),
        (
            ValueError,
            r"of shape \(2, 10\), a row for each image; got \(2, 9\)",
            lambda: BiasField()(x, x.new_zeros(2, 9)),
        ),
        (ValueError, "one to 3 spatial axes", lambda: BiasField()(x[0, 0], x.new_zeros(4, 10))),
        (
            TypeError,
            "images must be a floating-point tensor",
            lambda: Gamma()((255 * x).byte(), x.new_zeros(2, 1)),
        ),
        (
            TypeError,
            "parameters must be a floating-point tensor",
            lambda: Gamma()(x, torch.zeros(2, 1).long()),
        ),
    ):
        with pytest.raises(error, match=message):
            call()
