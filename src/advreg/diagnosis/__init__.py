"""Diagnosis: whether what an attack finds can be taken for robustness."""

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
