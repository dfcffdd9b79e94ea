"""A folder that is held against other runs."""

import pytest

from lumbar_disk._core.sharing import alone


def test_an_error_leaves_no_folder_that_was_not_there(tmp_path):
    def refuse(folder):
        with alone(folder):
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refuse(tmp_path / "deep" / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="refused"):
        refuse(tmp_path / "old" / "new")
    assert (tmp_path / "old").is_dir()


def test_an_error_leaves_what_was_written(tmp_path):
    def fail(folder):
        with alone(folder):
            (folder / "shard").write_text("whole")
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fail(tmp_path / "new")
    assert (tmp_path / "new" / "shard").read_text() == "whole"
