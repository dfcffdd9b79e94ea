"""Recipe of the certificates and of the attacks on what they speak of, beside a study's recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lumbar_disk.study import SIGMAS, SIZES, StudyRecipe

MODELS = ("P10_std", *(f"P10_noise_{sigma}" for sigma in SIGMAS))


@dataclass(frozen=True)
class CertifiedRecipe:
    """Recipe of certificates and attacks: what decides their numbers, beside a study's recipe.

    Attributes:
        cert_radii: L2 radii, above 0.
        cert_samples: Draws of noise of each certificate.
        cert_confidence: Of each bound.
        cert_discs: How many discs of each test patient.
        cert_draws: Draws of noise that an attack follows, in each of its passes.
        cert_passes: Budget of `auto_attack` for each disc, measure and radius.
        cert_critical: Budget of `critical_radius` for each disc and measure.
        cert_judged: Other draws, over which the median of what was found is taken.
        cert_dice: The Dice of a mask whose critical radius is asked for.
        cert_error: The point error, in pixels, whose critical radius is asked for.
        cert_largest: The largest L2 radius that is looked at for it.
    """

    cert_radii: tuple[float, ...] = (0.2, 0.5, 1.0)
    cert_samples: int = 4000
    cert_confidence: float = 0.999
    cert_discs: int = 1
    cert_draws: int = 8
    cert_passes: int = 100
    cert_critical: int = 60
    cert_judged: int = 1001
    cert_dice: float = 0.7
    cert_error: float = 3.0
    cert_largest: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        counts = ("samples", "discs", "draws", "passes", "critical", "judged")
        for name in (f"cert_{one}" for one in counts):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        rising = sorted(set(self.cert_radii)) == list(self.cert_radii)
        if not self.cert_radii or not rising or not all(0 < radius < math.inf for radius in self.cert_radii):
            raise ValueError(f"cert_radii must be numbers above 0 that rise; got {self.cert_radii}.")
        if not 0 < self.cert_confidence < 1:
            raise ValueError(f"cert_confidence must lie between 0 and 1; got {self.cert_confidence}.")
        for name in ("cert_dice", "cert_error", "cert_largest"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number; got {getattr(self, name)}.")


_HALVED = CertifiedRecipe(cert_radii=(0.1, 0.25, 0.5), cert_error=1.5, cert_largest=10.0)  # at 64 pixels
_SIZES = {
    "smoke": replace(
        _HALVED,
        cert_radii=(0.1, 0.25),
        cert_samples=60,
        cert_draws=2,
        cert_passes=4,
        cert_critical=6,
        cert_judged=5,
    ),
    "small": _HALVED,
    "medium": CertifiedRecipe(),
    "paper": CertifiedRecipe(cert_discs=1000),
}


def certified_recipes(size: str) -> tuple[StudyRecipe, CertifiedRecipe]:
    """The study in one of its sizes: the training of its three models, and what is certified of them."""
    return replace(SIZES[size](), models=MODELS), _SIZES[size]
