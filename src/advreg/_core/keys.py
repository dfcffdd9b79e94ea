"""Random numbers that belong to the example, not to the batch."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)


_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10, a counter-based generator: four 32-bit words for each counter.

    Args:
        counter: Four int64 tensors of one shape, each holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four int64 tensors of the same shape, each holding 32 random bits.

    Source:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> 32) & _WORD ^ c1 ^ k0,
            p1 & _WORD,
            (p0 >> 32) & _WORD ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


@dataclass(frozen=True, eq=False)
class Keys:
    """One random key per example: the same seed and index give the same numbers, whatever the batch.

    Keys are values. Drawing twice from the same keys gives the same numbers twice; `fold_in` makes
    keys for another use. Nothing here reads or moves torch's global generators, and the numbers do
    not depend on the device.

    Args:
        seed: The seed of the experiment.
        index: Each example's place in its data set, int64 `(B,)`.

    Example:
        >>> import torch
        >>> from advreg import Keys
        >>> five, one = torch.zeros(5, 3), torch.zeros(1, 3)
        >>> batch = Keys(seed=7, index=torch.arange(5)).uniform(five)
        >>> alone = Keys(seed=7, index=torch.tensor([4])).uniform(one)
        >>> bool((batch[4] == alone[0]).all())
        True
    """

    seed: int
    index: Tensor

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.index.dtype != torch.int64:
            raise ValueError(
                f"index must be int64 of shape (B,), each example's place in the data set; "
                f"got {self.index.dtype} of shape {tuple(self.index.shape)}"
            )

    @staticmethod
    def of(x: Tensor, seed: int, index: Tensor | None) -> Keys:
        """The keys of a batch `(B, *input)` whose places are `index`, or 0 to B - 1.

        Raises:
            ValueError: An index that does not give one place for each.
        """
        keys = Keys(seed, torch.arange(len(x)) if index is None else index)
        if len(keys.index) != len(x):
            raise ValueError(
                f"{len(keys.index)} keys cannot serve a batch of {len(x)}: index= is one place for each"
            )
        return keys

    def fold_in(self, number: int) -> Keys:
        """Independent keys for another use, told apart by `number` (a restart, a step)."""
        digest = hashlib.blake2b(f"{self.seed}/{number}".encode(), digest_size=8).digest()
        return Keys(int.from_bytes(digest), self.index)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers strictly between 0 and 1, of the shape, dtype and device of `like`, `(B, ...)`.

        They have 23 random bits, so that float32 and float64 hold the same numbers.
        """
        bits = self._words(like, math.prod(like.shape[1:])) >> 9
        return ((bits.float() + 0.5) / 2**23).reshape(like.shape).to(like.dtype)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, dtype and device of `like`, `(B, ...)` (Box-Muller)."""
        pair = self.uniform(like.new_empty((like.shape[0], 2, *like.shape[1:]), dtype=torch.float32))
        radius = (-2.0 * pair[:, 0].log()).sqrt()
        return (radius * (2.0 * math.pi * pair[:, 1]).cos()).to(like.dtype)

    def fine_normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers in float64, of 52 random bits each: `(B, ...)`, up to 8.6 in size.

        What is stated at a confidence needs the tails, which `normal` cuts off at 5.8.
        """
        entries = math.prod(like.shape[1:])
        half = -(-entries // 2)
        words = self._words(like, 4 * half)
        uniform = (((words[:, ::2] << 20) + (words[:, 1::2] >> 12)).double() + 0.5) / 2.0**52
        radius, angle = (-2.0 * uniform[:, :half].log()).sqrt(), 2.0 * math.pi * uniform[:, half:]
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :entries].reshape(like.shape)

    def _words(self, like: Tensor, count: int) -> Tensor:
        """Random words of 32 bits, int64 `(B, count)`, on the device of `like`, `(B, ...)`."""
        if like.shape[0] != len(self.index):
            raise ValueError(f"{len(self.index)} keys cannot serve a batch of {like.shape[0]}")
        index = self.index.to(like.device)[:, None]
        block = torch.arange(-(-count // 4), device=like.device).expand(len(index), -1)
        index = index.expand_as(block)
        words = philox(
            (block & _WORD, block >> 32, index & _WORD, (index >> 32) & _WORD),
            (self.seed & _WORD, (self.seed >> 32) & _WORD),
        )
        return torch.stack(words, dim=-1).flatten(1)[:, :count]
