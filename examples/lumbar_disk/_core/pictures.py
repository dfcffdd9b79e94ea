"""Pictures, opened with Pillow as files that may be damaged, or other than they seem."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # of pixels alone; others may start programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file, opened; one that is empty, holds several images or is beyond Pillow's limit is refused.

    Raises:
        ValueError: If it is empty, no regular file, or holds several images.
        Exception: Whatever Pillow and its codecs raise for a damaged file, here and when its pixels are read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    Image.init()  # with formats given, Pillow itself knows those alone that it has met before
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames != 1 and picture.format != "MPO":  # a photograph with previews
                raise ValueError(f"it holds {frames} images; expected one")
            yield picture
