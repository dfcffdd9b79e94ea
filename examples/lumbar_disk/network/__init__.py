"""Network of the study: the paper's U-net with two heads, its losses and its training."""

from lumbar_disk.network._train import Batch, Checkpoint, fit, loss, loss_with_reconstruction
from lumbar_disk.network._unet import HEADS, Block, Merge, UNet, Up, untrained

__all__ = [
    "HEADS",
    "Batch",
    "Block",
    "Checkpoint",
    "Merge",
    "UNet",
    "Up",
    "fit",
    "loss",
    "loss_with_reconstruction",
    "untrained",
]
