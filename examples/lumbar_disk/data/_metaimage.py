"""MetaImage files (.mha, .mhd): where their headers say that the voxels are, before anybody reads them.

A header is lines `Key = Value`, the last of them `ElementDataFile`: LOCAL where the voxels follow, the name
of a file, LIST with one name a line, or a pattern such as `slice%03d.raw 1 20 1`. Source: MetaIO's own
documentation, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from lumbar_disk._core.files import reading

SUFFIXES = (".mha", ".mhd")

_HEADER = 65536  # bytes; a real header has some hundreds
_DATA = re.compile(rb"(^[ \t]*)?ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def data_files(path: Path) -> tuple[Path, ...]:
    """List the files beside a volume that its header takes voxels from; none for another kind of file.

    Args:
        path: The volume.

    Raises:
        ValueError: If the header cannot be read, or names a file outside the volume's own folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        return ()
    with reading(path, "Download it again."), path.open("rb") as file:
        header = file.read(_HEADER)
    found: list[Path] = []
    for match in _DATA.finditer(header):  # also in comments: who knows what another reader takes for a line
        value = match[2].decode(errors="replace").strip()
        kind = value.split(" ", maxsplit=1)[0].upper()
        if kind == "LOCAL":
            if match[1] is not None:
                return tuple(found)
            continue
        rest = path.read_bytes()[match.end() :].decode(errors="replace") if kind == "LIST" else value
        for name in filter(None, map(str.strip, rest.splitlines())):
            found += _beside(path, name)
    if not found:
        raise ValueError(
            f"{path}: cannot be read as an image; download it again. Its first {_HEADER // 1024} kB name no "
            "ElementDataFile."
        )
    return tuple(found)


def _beside(path: Path, name: str) -> list[Path]:
    """The files of a name or a pattern in a volume's folder."""
    inside = all(
        not kind(name).is_absolute() and not kind(name).anchor and ".." not in kind(name).parts
        for kind in (PurePosixPath, PureWindowsPath)
    )
    if not inside:
        raise ValueError(
            f"{path}: its header takes the voxels from {name!r}, outside its own folder; expected LOCAL or a "
            "file beside it. Convert it to one .mha file, or leave the patient out."
        )
    if "%" in name:
        return sorted(path.parent.glob(re.sub(r"%\d*[a-z]", "*", name.split(" ", maxsplit=1)[0])))
    return [path.parent / name]
