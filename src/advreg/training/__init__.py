"""Training: adversarial losses of (model, x, y) for any loop, the paper's four among them.

A loss changes its inputs by a `Perturb`: an attack (`Adversary`), noise, or a function of your own.
"""

from advreg.training._losses import AdversarialLoss, L_adv_r, L_adv_rs, L_adv_s, L_noise, L_rand
from advreg.training._perturb import Adversary, GaussianNoise, Noise, Perturb, PureNoise
from advreg.training._radius import radius_ramp

__all__ = [
    "AdversarialLoss",
    "Adversary",
    "GaussianNoise",
    "L_adv_r",
    "L_adv_rs",
    "L_adv_s",
    "L_noise",
    "L_rand",
    "Noise",
    "Perturb",
    "PureNoise",
    "radius_ramp",
]
