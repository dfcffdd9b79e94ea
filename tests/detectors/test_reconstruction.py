"""The error of a reconstruction as a score."""

import torch
from networks.watched import images, net

from advreg.detectors import (
    ReconstructionDetector,
)


def test_reconstruction_is_the_error_of_the_head_alone():
    model, x = net(), images(3)
    error = (model(x)["reconstruction"] - x).detach().flatten(1)
    torch.testing.assert_close(ReconstructionDetector(model).score(x), error.abs().mean(1))
    torch.testing.assert_close(
        ReconstructionDetector(model, norm="l2").score(x), error.square().mean(1).sqrt()
    )
