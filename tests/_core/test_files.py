"""A file is written whole or not at all."""

import numpy as np
import pytest

from advreg.evaluation import Row, Table


def example(groups=True):
    rng = np.random.default_rng(0)
    return Table(
        Row(i, f"patient {i // 3}" if groups else "", radius, attack, head, "dice", rng.random())
        for attack in ("contour", "mask")
        for radius in (0.0, 0.03)
        for i in range(12)
        for head in ("contour", "mask")
    )


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = example().save(tmp_path / "t.csv")
    before = path.read_bytes()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("advreg._core.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Table().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
