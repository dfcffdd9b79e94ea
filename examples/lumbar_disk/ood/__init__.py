"""Out-of-distribution attacks of the study: strange images passed off as discs, past detectors."""

from lumbar_disk.ood._claims import OODQuestion, judge
from lumbar_disk.ood._images import Source, made_images, paint_out, partners, read_images
from lumbar_disk.ood._outliers import outliers, varied
from lumbar_disk.ood._recipe import OODRecipe, ood_recipes
from lumbar_disk.ood._report import is_ood, write_report
from lumbar_disk.ood._run import JOINT, Adversary, Trial, disc_likeness, masks_agree, ood_work
from lumbar_disk.ood._tables import Matching, Measured, Tolerance, measure

__all__ = [
    "JOINT",
    "Adversary",
    "Matching",
    "Measured",
    "OODQuestion",
    "OODRecipe",
    "Source",
    "Tolerance",
    "Trial",
    "disc_likeness",
    "is_ood",
    "judge",
    "made_images",
    "masks_agree",
    "measure",
    "ood_recipes",
    "ood_work",
    "outliers",
    "paint_out",
    "partners",
    "read_images",
    "varied",
    "write_report",
]
