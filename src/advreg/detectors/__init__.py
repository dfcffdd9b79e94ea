"""Detectors of out-of-distribution inputs, and the adversary who knows of them.

A detector gives each input a score: larger is stranger. `advreg.metrics.threshold` turns scores into
decisions, `advreg.metrics.detection` measures how good they are. A detector that was only tried on clean
strange inputs has hardly been tried: attack it with `aware` and `lower_score`.
"""

from advreg.detectors._critic import LipschitzCritic
from advreg.detectors._detector import Detector, aware, lower_score, score_of, scores
from advreg.detectors._disagreement import DisagreementDetector
from advreg.detectors._distance import MahalanobisDetector, NearestNeighbourDetector
from advreg.detectors._features import Inputs, Pool
from advreg.detectors._reconstruction import ReconstructionDetector
from advreg.detectors._report import Report, ReportRow, report

__all__ = [
    "Detector",
    "DisagreementDetector",
    "Inputs",
    "LipschitzCritic",
    "MahalanobisDetector",
    "NearestNeighbourDetector",
    "Pool",
    "ReconstructionDetector",
    "Report",
    "ReportRow",
    "aware",
    "lower_score",
    "report",
    "score_of",
    "scores",
]
