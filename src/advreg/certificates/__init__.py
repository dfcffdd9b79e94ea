"""Certificates: what no perturbation can make worse, by randomised smoothing; beside what attacks find."""

from advreg.certificates._bounds import largest_radius
from advreg.certificates._certify import Certificate, Certified, certified_curve, certify
from advreg.certificates._smoothed import draws, over_draws, smoothed, under_noise

__all__ = [
    "Certificate",
    "Certified",
    "certified_curve",
    "certify",
    "draws",
    "largest_radius",
    "over_draws",
    "smoothed",
    "under_noise",
]
