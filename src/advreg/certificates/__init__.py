"""Certificates: what no perturbation can make worse, by randomised smoothing; beside what attacks find."""

from advreg.certificates._bounds import largest_radius
from advreg.certificates._certify import Certificate, Certified, certified_curve, certify
from advreg.certificates._detection import (
    GuaranteedDetection,
    guaranteed_auroc,
    guaranteed_detection,
    guaranteed_rate,
)
from advreg.certificates._outputs import (
    PixelCertificate,
    certified_radius,
    certify_outputs,
    certify_pixels,
)
from advreg.certificates._smoothed import draws, over_draws, smoothed, under_noise

__all__ = [
    "Certificate",
    "Certified",
    "GuaranteedDetection",
    "PixelCertificate",
    "certified_curve",
    "certified_radius",
    "certify",
    "certify_outputs",
    "certify_pixels",
    "draws",
    "guaranteed_auroc",
    "guaranteed_detection",
    "guaranteed_rate",
    "largest_radius",
    "over_draws",
    "smoothed",
    "under_noise",
]
