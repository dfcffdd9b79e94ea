from lumbar_disk.report import cells, read_results


def test_models_of_other_names_are_shown_beside_the_papers(tmp_path, make_study):
    folder = make_study(tmp_path / "study", ["P3_std"])
    (folder / "models" / "P3_std").rename(folder / "models" / "mine")
    read = read_results(folder)
    assert list(read.tables) == ["mine"]
    assert len(read.missing) == 18
    assert ("mask_dice", "mine", 0.03) in cells(read)
