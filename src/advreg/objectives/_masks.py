"""Surrogates of mask heads: smoother than the metric, or still rising where it is flat.

`advreg.objectives` says which arguments they share. Below, `gap` is the log odds of a pixel against its true
class, `logsumexp(other logits) - true logit`, so that p, the probability of the true class, is
`sigmoid(-gap)`: computed from it, gradients survive where p rounds to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.tensors import wide
from advreg.metrics import Absent, Activation, mask_like, over_channels, probabilities
from advreg.objectives._pixels import read, refuse_probabilities


def cross_entropy(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Cross-entropy, `-log p = softplus(gap)`, mean over pixels and, with "sigmoid", channels.

    Example:
        >>> import torch
        >>> from advreg.objectives import cross_entropy
        >>> cross_entropy(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([0.6931])

    Source:
        Goodfellow, Bengio and Courville, Deep learning, 2016, section 6.2.2.
    """
    pixels = read(output, target, activation, ignore_index)
    return pixels.mean(pixels.cross_entropy())


def masked_cross_entropy(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    balanced: bool = False,
) -> Tensor:
    """Cross-entropy of the pixels that are still right, over the number of all pixels.

    Pixels that have flipped have no gradient: nothing is spent on them. It falls when a pixel flips, so
    judge iterates by another measure. `balanced` weighs each pixel by the inverse frequency of its true class
    in this example (inside or outside, for each channel), scaled to a mean of 1: small objects count like
    large ones, absent classes not at all.

    Example:
        >>> import torch
        >>> from advreg.objectives import masked_cross_entropy
        >>> masked_cross_entropy(torch.tensor([[[[0.1, -9.0]]]]), torch.ones(1, 1, 1, 2))
        tensor([0.3222])

    Source:
        Croce et al., Segmentation ensemble attack, arXiv:2306.12941, "Mask-CE" and "Mask-CE-Bal".
    """
    pixels = read(output, target, activation, ignore_index)
    loss = pixels.right() * pixels.cross_entropy()
    return pixels.mean(pixels.balance() * loss if balanced else loss)


def jensen_shannon(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Jensen-Shannon divergence of the predicted from the true distribution, mean over pixels, in nats.

    `(p log p - (1 + p) log(1 + p)) / 2 + log 2`: at most log 2, with a gradient that fades on pixels that
    are wrong beyond doubt.

    Example:
        >>> import torch
        >>> from advreg.objectives import jensen_shannon
        >>> jensen_shannon(torch.tensor([[[[-1e4]]]]), torch.ones(1, 1, 1, 1))
        tensor([0.6931])

    Source:
        Croce et al., arXiv:2306.12941; Lin, IEEE Trans. Inf. Theory 37, 1991.
    """
    pixels = read(output, target, activation, ignore_index)
    gap = pixels.gap()
    log_p = logsigmoid(-gap)
    p, q = log_p.exp(), logsigmoid(gap).exp()
    # The same, less its cancellation where q = 1 - p is small.
    return pixels.mean((p * log_p + q * math.log(2) - (1 + p) * torch.log1p(-q / 2)) / 2)


def margin(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    masked: bool = True,
) -> Tensor:
    """The largest other logit minus the true one, mean over pixels: unlike probabilities, it never saturates.

    With "sigmoid" it is `-logit` inside and `logit` outside. `masked` counts a pixel until it flips, by
    `min(margin, 0)`.

    Example:
        >>> import torch
        >>> from advreg.objectives import margin
        >>> logits, mask = torch.tensor([[[[3.0, -7.0]]]]), torch.ones(1, 1, 1, 2)
        >>> margin(logits, mask), margin(logits, mask, masked=False)
        (tensor([-1.5000]), tensor([2.]))

    Source:
        Carlini and Wagner, arXiv:1608.04644; masked as `mask-margin-avg` in the code of Croce et al.,
        arXiv:2306.12941.
    """
    pixels = read(output, target, activation, ignore_index)
    value = pixels.others().amax(1) - pixels.true()
    return pixels.mean(value.clamp(max=0) if masked else value)


def cosine_weighted(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """CosPGD's loss: cross-entropy, each pixel weighted by how right it is, mean over pixels.

    The weight is the cosine of the predicted and the true distribution, `p / ||(p_1, ..., p_K)||_2`,
    without a gradient. One "sigmoid" channel is the two classes (1 - p, p).

    Example:
        >>> import torch
        >>> from advreg.objectives import cosine_weighted
        >>> cosine_weighted(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))  # log(2) / sqrt(2)
        tensor([0.4901])

    Source:
        Agnihotri et al., CosPGD, arXiv:2302.02213, untargeted.
    """
    pixels = read(output, target, activation, ignore_index)
    spread = pixels.scores.detach().softmax(1)
    weight = torch.where(pixels.truth, spread, 0).sum(1) / spread.square().sum(1).sqrt()
    return pixels.mean(weight * pixels.cross_entropy())


@dataclass(frozen=True)
class SegPGD:
    """SegPGD's loss: `(1 - lambda) CE of right pixels + lambda CE of wrong ones`, over all pixels.

    `lambda = share / 2`, share being the steps made over all, (t - 1) / T: at first only right pixels
    count, in the end all alike. `advreg.objectives.at` asks for the form of a step: `masked_cross_entropy`
    at 0, half of `cross_entropy` at 1.

    Raises:
        ValueError: A share outside [0, 1].

    Example:
        >>> import torch
        >>> from advreg.objectives import SegPGD
        >>> logits, mask = torch.tensor([[[[0.1, -9.0]]]]), torch.ones(1, 1, 1, 2)
        >>> SegPGD().at(0)(logits, mask), SegPGD()(logits, mask)
        (tensor([0.3222]), tensor([2.4111]))

    Source:
        Gu et al., SegPGD, arXiv:2207.12391, Eqs 4 and 5.
    """

    activation: Activation = "sigmoid"
    ignore_index: int | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is steps made over all steps, in [0, 1]; got {self.share}")

    def at(self, share: float) -> SegPGD:
        """The loss after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, `(B,)`."""
        pixels = read(output, target, self.activation, self.ignore_index)
        weight = self.share / 2 + (1 - self.share) * pixels.right()
        return pixels.mean(weight * pixels.cross_entropy())


def tversky(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> Tensor:
    """`1 - TP / (TP + alpha FP + beta FN)`, soft counts, mean over channels; at 0.5 and 0.5 `J_IND_seg`.

    `alpha` is what a false positive costs, `beta` a false negative, both above 0. A channel that is empty in
    both counts as 0; `absent` is that of `soft_dice`.

    Example:
        >>> import torch
        >>> from advreg.objectives import tversky
        >>> tversky(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]]))  # 1 - 0.5 / (0.5 + 0.15 + 0.35)
        tensor([0.5000])

    Source:
        Salehi et al., Tversky loss, arXiv:1706.05721.
    """
    if not (alpha > 0 and beta > 0):
        raise ValueError(f"alpha and beta must be positive; got {alpha} and {beta}")
    refuse_probabilities(activation)
    mask, counted = mask_like(output, target, activation, ignore_index)
    inside, p = mask > 0.5, probabilities(wide(output), activation)
    if counted is not None:
        inside, p = inside & counted, torch.where(counted, p, 0)
    counts = (p * inside, alpha * p * ~inside, beta * (1 - p) * inside)
    hit, false, missed = (count.flatten(2).sum(2) for count in counts)
    total = hit + false + missed
    empty = total == 0  # not `~(total > 0)`: NaN is no agreement
    value = torch.where(empty, 0, 1 - hit / torch.where(empty, 1, total))
    return over_channels(value, inside.flatten(2).any(2), activation, absent)
