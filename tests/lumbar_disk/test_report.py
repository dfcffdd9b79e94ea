"""The report, made from results that were made up: the published means plus chance, and drawn discs."""

import base64
import csv
import json
import re
from collections import Counter
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from advreg.evaluation import Row, Table
from advreg.metrics import rasterise
from lumbar_disk import pictures, prepare, recipes, report, results, study_figures
from lumbar_disk.paper import MEASURES, RADII, ordered, published
from lumbar_disk.sources import Options

PATIENTS, SIZE = 6, 64
LEVELS = ("L5/S1", "L4/L5", "L3/L4", "L2/L3", "L1/L2")
FILES = {
    "report.html",
    "report.md",
    "claims.csv",
    "claims.json",
    *(f"table{number}.csv" for number in (1, 2, 3)),
    *(f"figure{number}.png" for number in range(4, 10)),
}


@pytest.fixture(scope="module")
def manifest():
    return prepare.build(Options("phantom", patients=3, test_patients=1, size=32)).manifest


def make(folder, manifest, names):
    """Write results as the study does: the published means, spread over patients and discs."""
    about = {
        "command": "lumbar-disk study --size small --out results/<small>",
        "environment": {"python": "3.11", "advreg": "0.1.0", "torch": "2.6.0", "device": "CPU", "threads": 2},
        "recipe": asdict(recipes.small()),
        "data": manifest,
        "patients": {"train": 48, "test": PATIENTS},
        "discs": {"train": 240, "test": 5 * PATIENTS},
        "wall_seconds": None,
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    for place, name in enumerate(names):
        model = folder / "models" / name
        rng = np.random.default_rng(place)
        evaluated(name, rng).save(model / "table.csv")
        np.savez_compressed(model / "examples.npz", **examples(name, rng))
        start = None if name.endswith("std") else name.split("_", maxsplit=1)[0] + "_std"
        known = {"name": name, "steps": 1000, "parameters": 123456, "warm_start": start}
        seconds = {"seconds_training": 100.0 + place, "seconds_evaluation": 20.0}
        (model / "model.json").write_text(json.dumps(known | seconds))
    return folder


def evaluated(name, rng):
    rows = []
    for number, one in MEASURES.items():
        patients, discs = rng.normal(size=PATIENTS), rng.normal(size=5 * PATIENTS)
        for radius in RADII:
            mean = published(number, name, radius)
            spread = 0.2 * mean * SIZE / 128 if number == 1 else 0.2 * mean * (1 - mean)
            for index in range(5 * PATIENTS):
                value = mean * (SIZE / 128 if number == 1 else 1)
                value += spread * (patients[index // 5] + discs[index])
                group = f"p{index // 5}"
                rows.append(Row(index, group, radius, one.attack, one.head, one.metric, float(value)))
    return Table(rows)


def examples(name, rng):
    angle = torch.linspace(0, 2 * torch.pi, 177)[:-1]
    contour = torch.stack([32 + 20 * angle.cos(), 32 + 9 * angle.sin()], dim=-1).expand(2, -1, -1)
    masks = rasterise(contour, (SIZE, SIZE))[:, None].float()
    images = (0.3 + 0.4 * masks + 0.1 * torch.from_numpy(rng.random(masks.shape))).float()
    arrays = {
        "places": np.array([7, 22]),
        "patients": np.array(["p1", "p4"]),
        "levels": np.array(["L3/L4", "L3/L4"]),
        "radii": np.array(RADII),
        "images": images.numpy(),
        "contours": contour.numpy(),
        "masks": masks.numpy(),
    }
    radii = torch.tensor(RADII).reshape(-1, 1, 1, 1)
    for head in ("contour", "mask"):
        noise = torch.from_numpy(rng.choice([-1.0, 1.0], size=(len(RADII), 2, 1, SIZE, SIZE))).float()
        arrays[f"x_{head}"] = (images + radii[..., None] * noise).clamp(0, 1).numpy()
        found = contour + (0 if "adv" in name else 100) * radii * torch.tensor([1.0, -0.5])
        arrays[f"contour_{head}"] = found.numpy()
        faded = torch.tensor([2 * published(3, name, radius) - 0.5 for radius in RADII])
        arrays[f"mask_{head}"] = (masks * faded.reshape(-1, 1, 1, 1, 1) - 0.2).numpy()
    return arrays


class Page(HTMLParser):
    """The tags of a page, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], Counter(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, manifest):
    folder = make(tmp_path_factory.mktemp("study"), manifest, ordered(set()))
    return folder, report.write(folder), Page((folder / "report" / "report.html").read_text())


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
    for number, one in MEASURES.items():
        rows = rows_of(folder / "report" / f"table{number}.csv")
        assert [row["model"] for row in rows] == list(ordered(set()))
        scale = 128 / SIZE if number == 1 else 1
        for row in rows[::5]:
            table = Table.load(folder / "models" / row["model"] / "table.csv")
            for radius in RADII:
                values = table.where(
                    attack=one.attack, head=one.head, metric=one.metric, radius=radius
                ).values()
                mean, low, high = (float(row[f"{radius:g} {name}"]) for name in ("mean", "low", "high"))
                assert mean == pytest.approx(scale * values.mean())
                assert low <= mean <= high
                assert float(row[f"{radius:g} published"]) == published(number, row["model"], radius)


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


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path, manifest, monkeypatch):
    folder = make(tmp_path / "study", manifest, ["P3_std"])
    begun = folder / "models" / "P10_adv_s"
    begun.mkdir()
    (begun / "table.csv").write_text("half a")
    (folder / "report").mkdir()
    (folder / "report" / "figure8.png").write_text("of an earlier run")
    monkeypatch.setattr(pictures, "curve_figure", lambda *args, **options: Figure((1, 1)))  # drawn elsewhere
    names = {path.name for path in report.write(folder)}
    assert names == FILES - {"figure8.png", "figure9.png"} == {p.name for p in (folder / "report").iterdir()}
    page = Page((folder / "report" / "report.html").read_text())
    assert "17 of them belong to this run and are still to come" in page.text
    assert "P10_adv_s not there" in page.text
    assert page.text.count("Not drawn: none of its models is there.") == 2
    claims = json.loads((folder / "report" / "claims.json").read_text())
    assert {claim["verdict"] for claim in claims} == {"not computed"}
    assert [part["verdict"] for part in claims[0]["parts"]] == ["holds", "not computed", "not computed"]


def test_figures_show_what_is_there_and_name_what_is_missing(tmp_path, manifest):
    folder = make(tmp_path, manifest, ["P10_std"])
    read = results.read(folder)
    found = results.cells(read)
    for tall in (False, True):
        figure = study_figures.curve_figure(5, found, tall=tall)
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[:3] == ["P3_adv_rs (missing)", "P10_adv_rs (missing)", "P10_std"]
        error, _, mask = figure.axes
        ours, printed = error.lines[4:6]
        scaled = [2 * value for value in means(read.tables["P10_std"])]
        np.testing.assert_allclose(ours.get_ydata(), scaled)
        np.testing.assert_allclose(printed.get_ydata(), [published(1, "P10_std", r) for r in RADII])
        assert len(mask.lines[0].get_xdata()) == 0
        assert ours.get_color() == printed.get_color()
    for number, tall in product((8, 9), (False, True)):
        figure = study_figures.output_figure(number, read.examples, tall=tall)
        titles = " ".join(axes.get_title() for axes in figure.axes)
        assert titles.count("missing") == 2 * len(RADII)
        assert titles.count("Dice") == len(RADII)
    assert study_figures.disc(read.examples) == "patient p1, L3/L4"


def test_on_a_dark_page_the_curves_are_dark(whole):
    _, _, page = whole
    shown = [found for tag, found in page.attributes if "srcset" in found][:3]
    drawn = {found["media"]: base64.b64decode(found["srcset"].split(",")[1]).decode() for found in shown}
    assert len(drawn) == 3
    for media, svg in drawn.items():
        assert ("#ffffff" in svg) != ("dark" in media)
        assert ("#16191d" in svg) == ("dark" in media)


def means(table):
    point = table.where(attack="contour", head="contour", metric="point_error")
    return [point.where(radius=radius).values().mean() for radius in RADII]


def test_models_of_other_names_are_shown_beside_the_papers(tmp_path, manifest):
    folder = make(tmp_path / "study", manifest, ["P3_std"])
    (folder / "models" / "P3_std").rename(folder / "models" / "mine")
    read = results.read(folder)
    assert list(read.tables) == ["mine"]
    assert len(read.missing) == 18
    assert (3, "mine", 0.03) in results.cells(read)


def test_what_is_no_study_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make one with `lumbar-disk study`"):
        report.write(tmp_path)
    (tmp_path / "study.json").write_text('{"command": "x", "recipe": {}}')
    with pytest.raises(ValueError, match="got no environment, data, patients, discs, wall_seconds"):
        report.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
