"""Diagnosis: whether what an attack finds can be taken for robustness.

Most checks ask what share of the damage the attack misses. With the gain of an example what an attack raised
the judge's value by over the clean input, and a rival attack,

    missed = mean(max(0, rival - attack)) / mean(max(rival, attack))

over the examples: 0 if the rival is better for none, 1 if the attack finds nothing.
"""

from advreg.diagnosis._diagnose import diagnose
from advreg.diagnosis._gradient_flow import dead_end
from advreg.diagnosis._report import Check, Diagnosis, Evidence, Verdict

__all__ = [
    "Check",
    "Diagnosis",
    "Evidence",
    "Verdict",
    "dead_end",
    "diagnose",
]
