import json

import pytest

from lumbar_disk.report import cells, read_results


def test_models_of_other_names_are_shown_beside_the_papers(tmp_path, make_study):
    folder = make_study(tmp_path / "study", ["P3_std"])
    (folder / "models" / "P3_std").rename(folder / "models" / "mine")
    read = read_results(folder)
    assert list(read.tables) == ["mine"]
    assert len(read.missing) == 18
    assert ("mask_dice", "mine", 0.03) in cells(read)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {}}, "it has no recipe, size. Restore it"),
        ({"discs": None, "patients": {}}, "is damaged, or is not what it should be: "),
    ],
)
def test_a_study_that_lacks_a_part_is_refused_by_name(tmp_path, make_study, change, message):
    path = make_study(tmp_path / "study", []) / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"study.json.*{message}"):
        read_results(tmp_path / "study")
