"""Virtual discs of the study: shape models, warps by splines, and streams of samples made with both."""

from lumbar_disk.virtual._augment import PUBLISHED, Augmented, augment, modes_figure, virtual_figure
from lumbar_disk.virtual._images import folding, resample
from lumbar_disk.virtual._mesh import KernelName
from lumbar_disk.virtual._shapes import Distribution, ShapeModel
from lumbar_disk.virtual._storage import Stored, fingerprint, generate
from lumbar_disk.virtual._stream import Samples, Stream, VirtualDiscs
from lumbar_disk.virtual._warps import TPS, border_anchors, fit_splines, warp

__all__ = [
    "PUBLISHED",
    "TPS",
    "Augmented",
    "Distribution",
    "KernelName",
    "Samples",
    "ShapeModel",
    "Stored",
    "Stream",
    "VirtualDiscs",
    "augment",
    "border_anchors",
    "fingerprint",
    "fit_splines",
    "folding",
    "generate",
    "modes_figure",
    "resample",
    "virtual_figure",
    "warp",
]
