import numpy as np
import pytest
import torch
from scipy import stats

from advreg import Keys
from advreg._core.keys import philox

# Known answers published with the generator (Random123).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, answer):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == answer


def test_numbers_belong_to_the_example():
    whole = Keys(3, torch.arange(10)).uniform(torch.empty(10, 2, 7))
    order = torch.tensor([7, 2, 9])
    assert torch.equal(Keys(3, order).uniform(torch.empty(3, 2, 7)), whole[order])


def test_uses_seeds_and_far_examples_differ():
    like = torch.empty(1, 1000)
    draws = [
        keys.uniform(like)
        for keys in (
            Keys(0, torch.tensor([0])),
            Keys(1, torch.tensor([0])),
            Keys(2**40, torch.tensor([0])),
            Keys(0, torch.tensor([1])),
            Keys(0, torch.tensor([2**40])),
            Keys(0, torch.tensor([0])).fold_in(0),
            Keys(0, torch.tensor([0])).fold_in(1),
            Keys(0, torch.tensor([0])).fold_in(0).fold_in(1),
        )
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.15
            assert (a == b).float().mean() < 0.01


def test_distributions():
    keys = Keys(5, torch.arange(50))
    uniform = keys.uniform(torch.empty(50, 400)).flatten().numpy()
    assert 0 < uniform.min() < uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(keys.normal(torch.empty(50, 400)).flatten().numpy(), "norm").pvalue > 1e-3


def test_dtypes_hold_the_same_numbers():
    keys = Keys(5, torch.arange(4))
    single, double = (keys.uniform(torch.empty(4, 9, dtype=t)) for t in (torch.float32, torch.float64))
    assert torch.equal(single.double(), double)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Keys(0, torch.arange(3)).fold_in(2).normal(torch.empty(3, 3))
    assert torch.equal(before, torch.get_rng_state())


def test_errors_name_what_came():
    with pytest.raises(ValueError, match=r"int64 of shape \(B,\).*float32"):
        Keys(0, torch.zeros(3))
    with pytest.raises(ValueError, match="2 keys cannot serve a batch of 3"):
        Keys(0, torch.arange(2)).uniform(torch.empty(3, 1))
