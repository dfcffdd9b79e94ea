"""Weights of the study's networks: exported in half precision with their cards, and loaded by name."""

from lumbar_disk.weights._export import export_weights
from lumbar_disk.weights._index import Entry, read_index
from lumbar_disk.weights._pretrained import available, pretrained

__all__ = ["Entry", "available", "export_weights", "pretrained", "read_index"]
