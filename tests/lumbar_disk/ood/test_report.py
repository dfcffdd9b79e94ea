"""The report of the out-of-distribution study, made from results that were made up."""

import csv
import io
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from advreg.evaluation import Table
from lumbar_disk.ood import _figures, is_ood, write_report
from lumbar_disk.ood._recipe import MODELS
from lumbar_disk.ood._tables import ordered
from lumbar_disk.report import read_results
from lumbar_disk.study import small_recipe

SOURCES = ("uniform", "lung_ct")
DETECTORS = ("reconstruction", "mahalanobis", "knn")
FILES = {
    "report.html",
    "report.md",
    "claims.csv",
    "claims.json",
    "detectors.csv",
    "matching.csv",
    *(f"figure{number}.png" for number in ("1b", "10", "11", "12")),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made_up, page_of):
    folder = made_up.folder(tmp_path_factory.mktemp("ood"))
    assert is_ood(folder)
    return folder / "report", write_report(folder), page_of(folder / "report")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there(whole):
    folder, files, _ = whole
    assert {path.name for path in files} == FILES == {path.name for path in folder.iterdir()}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files if path.suffix == ".png")


def test_the_page_nests_and_needs_nothing_else(whole):
    _, _, page = whole
    assert not page.open
    for tag, found in page.attributes:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "srcset"):
            assert found.get(name, "data:image/").startswith("data:image/")
        assert found.get("href", "#").startswith("#")
        assert tag != "th" or "scope" in found
        assert tag != "img" or found["alt"]
    style = "".join(word for word in page.words if "--ground" in word)
    assert "url(" not in style
    assert "prefers-color-scheme: dark" in style


def test_the_files_hold_scikit_learns_numbers(whole):
    folder, _, _ = whole
    found = rows_of(folder / "detectors.csv")
    assert len(found) == 2 * len(SOURCES) * len(DETECTORS) * 3
    for row in found[::5]:
        rows = Table.load(folder.parent / "models" / row["model"] / "table.csv").where(metric=row["detector"])
        low = rows.where(attack="in").values()
        high = rows.where(attack=f"{row['source']}/{row['adversary']}").values()
        truth, scores = [0] * len(low) + [1] * len(high), np.concatenate([low, high])
        assert float(row["auroc"]) == pytest.approx(roc_auc_score(truth, scores))
        assert float(row["aupr"]) == pytest.approx(average_precision_score(truth, scores))
        for name in ("auroc", "fpr95"):  # resampling biases AUPR upwards
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
    assert {row["adversary"] for row in found if row["detector"] == "knn"} == {"none", "unaware", "aware:knn"}


def test_what_no_adversary_was_there_for_is_marked_everywhere(whole):
    folder, _, page = whole
    for row in rows_of(folder / "detectors.csv"):
        assert (row["mark"] == "clean OOD only") == (row["adversary"] == "none")
    assert page.text.count("none clean OOD only") == 2 * len(SOURCES)
    markdown = (folder / "report.md").read_text()
    lines = [line for line in markdown.splitlines() if re.match(r"\| (uniform|lung_ct) \| none", line)]
    assert sum("clean OOD only" in line for line in lines) == 2 * len(SOURCES)


def test_the_page_says_what_was_measured(whole):
    folder, _, page = whole
    markdown = (folder / "report.md").read_text()
    claims = json.loads((folder / "claims.json").read_text())
    assert [claim["number"] for claim in claims] == [7, 8, 9]
    assert len(rows_of(folder / "claims.csv")) == 10
    for source in SOURCES:
        line = next(line for line in markdown.splitlines() if re.match(rf"\| {source} \| [\d.]+ \|", line))
        assert re.fullmatch(r"\| \w+ \| 2\d\.\d \| (18|19)\.\d \| \d+% \|", line)
    assert "no detector of any kind can refuse it" in page.text
    for claim in claims:
        assert f"{claim['number']}. {claim['title']} {claim['verdict']} {claim['sentence']}" in page.text
        assert f"| {claim['number']}. {claim['title']} | **{claim['verdict']}** |" in markdown
    for row in rows_of(folder / "matching.csv"):
        shown = [f"{float(row[f'contour_dice_{name}']):.3f}" for name in ("mean", "low", "high")]
        assert "{} {} to {}".format(*shown) in page.text
        assert "{}, {} to {}".format(*shown) in markdown
    assert len(rows_of(folder / "matching.csv")) == len(SOURCES) * (3 + 2 * 5)
    for text in ("ood_radius 20 (paper 40)", "radius 20 at 64 pixels is, per pixel, the paper's 40 at 128"):
        assert text in page.text
        assert text in markdown
    assert "Fewer images than discs: lung_ct." in page.text
    assert "scan <7>.dcm: no pixels | broken" in page.text
    assert "contours lie within 0.5 pixels on average and the masks reach Dice 0.98" in page.text


def test_markdown_tables_have_as_many_cells_as_their_headings(whole):
    folder, _, _ = whole
    count = 0
    for block in (folder / "report.md").read_text().replace("\\|", "/").split("\n\n"):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            count += 1
            assert re.fullmatch(r"\|(-+:?\|)+", lines[1])
            assert len({line.count("|") for line in lines}) == 1
    assert count == 1 + 3 + 2 + 3 + 1 + 4 + 1


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path, made_up, page_of, monkeypatch):
    folder = made_up.folder(tmp_path / "ood", ["P10_adv_rs_rec"])
    (folder / "report").mkdir()
    (folder / "report" / "figure10.png").write_text("of an earlier run")
    for name in ("error_figure", "perturbation_figure"):
        monkeypatch.setattr(_figures, name, lambda *args, **options: Figure((1, 1)))  # drawn elsewhere
    assert {path.name for path in write_report(folder)} == FILES - {"figure1b.png", "figure10.png"}
    assert not (folder / "report" / "figure10.png").exists()
    page = page_of(folder / "report")
    assert "Not there: P10_std, P10_std_rec. Still to come in this run: 2." in page.text
    assert page.text.count("Not drawn: none of its models is there.") == 2
    claims = json.loads((folder / "report" / "claims.json").read_text())
    assert [claim["verdict"] for claim in claims] == ["not computed"] * 3
    assert [part["verdict"] for part in claims[2]["parts"]] == ["holds", "not computed"]


def test_a_run_just_begun_is_reported(tmp_path, made_up, page_of):
    folder = made_up.folder(tmp_path / "ood", [])
    names = {path.name for path in write_report(folder)}
    assert names == {name for name in FILES if not name.endswith(".png")}
    assert "No detector was tried yet." in page_of(folder / "report").text


def test_another_studys_folder_is_refused_with_the_remedy(tmp_path, made_up):
    folder = made_up.folder(tmp_path / "ood", [])
    about = json.loads((folder / "study.json").read_text())
    about["recipe"] = asdict(small_recipe())
    del about["ood"]
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="without ood_radius, contour_within, mask_within, ood"):
        write_report(folder)
    assert read_results(folder, ordered).missing == MODELS


def test_names_of_folders_and_files_are_text_in_both_pages(tmp_path, made_up, page_of):
    folder = made_up.folder(tmp_path / "ood", [])
    about = json.loads((folder / "study.json").read_text())
    name, skipped = "<img src=x>|[y](z)", "<script>.png: <b>|"
    about["ood"]["sources"] = {name: {"images": 1, "skipped": [skipped]}}
    (folder / "study.json").write_text(json.dumps(about))
    write_report(folder)
    page = page_of(folder / "report")
    assert not page.open
    assert not {"script", "img", "b:"} & set(page.tags)
    assert name in page.text
    assert skipped in page.text
    markdown = (folder / "report" / "report.md").read_text()
    assert not re.search(r"<(img|script|b)>|<img", markdown)
    assert r"| &lt;img src=x&gt;\|\[y\](z) | 1 | &lt;script&gt;.png: &lt;b&gt;\| |" in markdown


def test_names_are_drawn_as_they_are(made_up):
    arrays = made_up.examples("P10_std_rec") | {"source": "lung_{$x_{$", "patients": np.array(["$p_{$"] * 3)}
    _figures.perturbation_figure({"P10_std_rec": arrays}).savefig(io.BytesIO())
    plain = made_up.examples("P10_std") | {"source": "lung_{$x_{$"}
    _figures.example_figure(plain).savefig(io.BytesIO())
