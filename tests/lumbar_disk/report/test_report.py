"""The report, made from results that were made up: the published means plus chance, and drawn discs."""

import base64
import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from advreg.evaluation import Table
from lumbar_disk.report import PAPER_RADII, _figures, published, write_report
from lumbar_disk.report._paper import ordered
from lumbar_disk.study import MASK_DICE, MEASURES

SIZE = 64
FILES = {
    "report.html",
    "report.md",
    "claims.csv",
    "claims.json",
    *(f"table{number}.csv" for number in (1, 2, 3)),
    *(f"figure{number}.png" for number in range(4, 10)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_study, page_of):
    folder = make_study(tmp_path_factory.mktemp("study"), ordered(set()))
    return folder, write_report(folder), page_of(folder / "report")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there_and_named(whole):
    folder, files, _ = whole
    assert {path.name for path in files} == FILES == {path.name for path in (folder / "report").iterdir()}
    assert all(path.parent == folder / "report" for path in files)
    for path in files:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


def test_the_page_nests_and_needs_nothing_else(whole):
    _, _, page = whole
    assert not page.open
    for tag, found in page.attributes:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "srcset"):
            assert found.get(name, "data:image/").startswith("data:image/")
        assert found.get("href", "#").startswith("#")
    style = "".join(word for word in page.words if "--ground" in word)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_the_page_can_be_read_without_seeing_it(whole):
    _, _, page = whole
    images = [found for tag, found in page.attributes if tag == "img"]
    assert len(images) == 6
    assert all("P10_std: " in found["alt"] and " at 0.03" in found["alt"] for found in images)
    assert page.tags["table"] == page.tags["caption"] == 6 + 3 + 4
    assert all("scope" in found for tag, found in page.attributes if tag == "th")
    assert ("html", {"lang": "en"}) in page.attributes
    sources = [found["media"] for tag, found in page.attributes if tag == "source"]
    assert sum("dark" in media for media in sources) == 2 * 4


def test_what_was_typed_is_shown_and_escaped(whole):
    folder, _, page = whole
    assert "lumbar-disk study --size small --out results/<small>" in page.text
    assert "results/<small>" in (folder / "report" / "report.md").read_text()
    assert "size 64 (paper 128)" in page.text
    assert "With 6 test patients they are too short: the true uncertainty is larger." in page.text


def test_table_files_hold_the_means_of_the_input_and_the_published_values(whole):
    folder, _, _ = whole
    for measure, one in MEASURES.items():
        rows = rows_of(folder / "report" / f"table{one.table}.csv")
        assert [row["model"] for row in rows] == list(ordered(set()))
        scale = 128 / SIZE if one.unit else 1
        for row in rows[::5]:
            table = Table.load(folder / "models" / row["model"] / "table.csv")
            for radius in PAPER_RADII:
                values = table.where(
                    attack=one.head, head=one.head, metric=one.metric, radius=radius
                ).values()
                mean, low, high = (float(row[f"{radius:g} {name}"]) for name in ("mean", "low", "high"))
                assert mean == pytest.approx(scale * values.mean())
                assert low <= mean <= high
                assert float(row[f"{radius:g} published"]) == published(measure, row["model"], radius)


def test_the_page_shows_ours_beside_the_papers(whole):
    folder, _, page = whole
    row = rows_of(folder / "report" / "table3.csv")[2]
    assert row["model"] == "P10_std"
    ours = [float(row[f"0.03 {name}"]) for name in ("mean", "low", "high")]
    assert "{:.3f} {:.3f} to {:.3f} paper 0.2907".format(*ours) in page.text
    markdown = (folder / "report" / "report.md").read_text()
    assert f"{ours[0]:.3f} (0.2907)" in markdown
    assert "multiplied by 128/64, to the paper's crops of 128." in page.text
    assert "multiplied by 128/64" in markdown


def test_claims_are_the_same_on_the_page_and_in_the_files(whole):
    folder, _, page = whole
    claims = json.loads((folder / "report" / "claims.json").read_text())
    assert len(claims) == 6
    assert claims[0]["verdict"] == "holds"
    rows = rows_of(folder / "report" / "claims.csv")
    assert len(rows) == sum(len(claim["parts"]) for claim in claims) == 53
    markdown = (folder / "report" / "report.md").read_text()
    for claim in claims:
        assert f"{claim['number']}. {claim['title']} {claim['verdict']} {claim['sentence']}" in page.text
        assert f"| {claim['number']}. {claim['title']} | **{claim['verdict']}** |" in markdown
        for part in claim["parts"]:
            assert part["part"] in page.text
            assert part["low"] <= part["measured"] <= part["high"]


def test_markdown_tables_have_as_many_cells_as_their_headings(whole):
    folder, _, _ = whole
    for block in (folder / "report" / "report.md").read_text().split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert re.fullmatch(r"\|(-+:?\|)+", lines[1])
            assert len({line.count("|") for line in lines}) == 1


def test_run_times_add_up(whole):
    _, _, page = whole
    assert "P3_std random weights 1,000 123,456 1 min 40 s 20.0 s" in page.text
    assert "together 38 min 33 s" in page.text  # 18 x 120 s, and 0 + 1 + ... + 17
    assert "not known yet" in page.text


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path, make_study, page_of, monkeypatch):
    folder = make_study(tmp_path / "study", ["P3_std"])
    begun = folder / "models" / "P10_adv_s"
    begun.mkdir()
    (begun / "table.csv").write_text("half a")
    (folder / "report").mkdir()
    (folder / "report" / "figure8.png").write_text("of an earlier run")
    monkeypatch.setattr(_figures, "curve_figure", lambda *args, **options: Figure((1, 1)))  # drawn elsewhere
    names = {path.name for path in write_report(folder)}
    assert names == FILES - {"figure8.png", "figure9.png"} == {p.name for p in (folder / "report").iterdir()}
    page = page_of(folder / "report")
    assert "Still to come in this run: 17" in page.text
    assert "P10_adv_s not there" in page.text
    assert page.text.count("Not drawn: none of its models is there.") == 2
    claims = json.loads((folder / "report" / "claims.json").read_text())
    assert {claim["verdict"] for claim in claims} == {"not computed"}
    assert [part["verdict"] for part in claims[0]["parts"]] == ["holds", "not computed", "not computed"]


def test_on_a_dark_page_the_curves_are_dark(whole):
    _, _, page = whole
    shown = [found for tag, found in page.attributes if "srcset" in found][:3]
    drawn = {found["media"]: base64.b64decode(found["srcset"].split(",")[1]).decode() for found in shown}
    assert len(drawn) == 3
    for media, svg in drawn.items():
        assert ("#ffffff" in svg) != ("dark" in media)
        assert ("#16191d" in svg) == ("dark" in media)


def test_a_new_table_is_one_new_measure(tmp_path, make_study, monkeypatch):
    folder = make_study(tmp_path / "study", ["P3_std"])
    again = replace(MASK_DICE, name="again", label="Dice once more", symbol="DICE_again", table=4)
    monkeypatch.setitem(MEASURES, "again", again)
    monkeypatch.setattr(_figures, "curve_figure", lambda *args, **options: Figure((1, 1)))  # drawn elsewhere
    assert folder / "report" / "table4.csv" in write_report(folder)
    ours = [rows_of(folder / "report" / f"table{number}.csv")[0] for number in (3, 4)]
    assert ours[0]["0.03 mean"] == ours[1]["0.03 mean"]
    assert ours[1]["0.03 published"] == ""
    for page in ("report.html", "report.md"):
        text = (folder / "report" / page).read_text()
        assert "Table 4: DICE_again, Dice once more, under attack on the" in text


def test_what_is_no_study_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make one with `lumbar-disk study`"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text('{"command": "x", "recipe": {}}')
    with pytest.raises(ValueError, match="got no environment, data, patients, discs, wall_seconds"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


NASTY = "<script>alert(1)</script>|[x](http://a.b) `c` *d*\n# e"


def without_fences(markdown):
    """Markdown without its blocks of code; their fences are as long as they begin."""
    return re.sub(r"^(`{3,})console\n.*?\n\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def test_text_of_users_is_text_in_both_pages(tmp_path, make_study, page_of, monkeypatch):
    monkeypatch.setattr(_figures, "output_figure", lambda *args, **options: Figure((1, 1)))
    monkeypatch.setattr(_figures, "curve_figure", lambda *args, **options: Figure((1, 1)))
    folder = make_study(tmp_path / "study", ["P10_std", "P10_adv_rs"])
    (folder / "models" / "P10_adv_rs").rename(folder / "models" / "<b>mine|")
    about = json.loads((folder / "study.json").read_text())
    about["command"] = f"lumbar-disk study --root '{NASTY}\n```\n<img src=x>'"
    about["environment"]["device"] = NASTY
    about["data"]["command"] = NASTY
    about["data"]["options"]["series"] = [NASTY]
    about["data"]["split"] = NASTY
    (folder / "study.json").write_text(json.dumps(about))
    examples = folder / "models" / "P10_std" / "examples.npz"
    with np.load(examples) as file:
        arrays = dict(file)
    np.savez(examples, **(arrays | {"patients": np.array([NASTY, "p2"])}))
    write_report(folder)
    page = page_of(folder / "report")
    assert not page.open
    assert not {"script", "a:x"} & set(page.tags)
    assert all(found.get("href", "#").startswith("#") for _, found in page.attributes)
    assert all(found.get("src", "data:").startswith("data:") for _, found in page.attributes)
    assert " ".join(NASTY.split()) in page.text
    markdown = (folder / "report" / "report.md").read_text()
    assert about["command"] in markdown
    plain = without_fences(markdown)
    assert plain != markdown
    assert not re.search(r"<\w|</|(?<!\\)\[x|(?<!\\)`", plain)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\[x\\](http://a.b) \\`c\\` \\*d\\* # e" in plain
    for block in plain.replace("\\|", "/").split("\n\n"):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
