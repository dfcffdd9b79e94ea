"""The report of the out-of-distribution study, made from results that were made up."""

import csv
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from lumbar_disk.claims import Verdict
from lumbar_disk.ood_claims import judge
from lumbar_disk.ood_tables import MODELS, Tolerance, measure, median
from lumbar_disk.sources import Options
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from advreg.evaluation import Row, Table
from advreg.metrics import rasterise
from lumbar_disk import ood_figures, ood_report, ood_tables, prepare, recipes, results

PATIENTS, SIZE = 6, 64
DISCS = 5 * PATIENTS
LEVELS = ("L5/S1", "L4/L5", "L3/L4", "L2/L3", "L1/L2")
SOURCES = ("uniform", "lung_ct")
DETECTORS = ("reconstruction", "mahalanobis", "knn")
WITHIN = Tolerance(0.5, 0.98)
FILES = {
    "report.html",
    "report.md",
    "claims.csv",
    "claims.json",
    "detectors.csv",
    "matching.csv",
    *(f"figure{number}.png" for number in ("1b", "10", "11", "12")),
}
SCORES = {"in": 0.04, "none": 0.12, "unaware": 0.03, "aware": 0.02}
PAPERS = {"dice": 0.985, "own": {"P10_std_rec": 0.05, "P10_adv_rs_rec": 0.4}}


def rows(attack, radius, head, metric, values):
    return [
        Row(index, f"p{index // 5}", radius, attack, head, metric, float(value))
        for index, value in enumerate(values)
    ]


def table(
    name,
    change=lambda head, metric, adversary, values: values,
    sources=SOURCES,
    discs=DISCS,
    detectors=DETECTORS,
):
    """A model as the paper found it, changed where a test wants it."""
    rng = np.random.default_rng(len(name))
    rec = name.endswith("_rec")
    found = []

    def add(attack, radius, head, metric, mean, spread):
        values = mean + spread * rng.uniform(-1, 1, discs)
        values = change(head, metric, attack.partition("/")[2] or "in", values)
        found.extend(rows(attack, radius, head, metric, values))

    def scored(attack, radius, kind, names):
        for detector in names:
            add(attack, radius, "detector", detector, SCORES[kind], 0.25 * SCORES[kind])

    if rec:
        scored("in", 0.0, "in", detectors)
    attackers = ("unaware", *(f"aware:{one}" for one in detectors)) if rec else ("reg", "seg")
    for source in sources:
        for adversary in ("none", *attackers):
            attack, radius = f"{source}/{adversary}", 0.0 if adversary == "none" else 20.0
            for head, other in (("contour", "seg"), ("mask", "reg")):
                mean = 0.3 if adversary in ("none", other) else PAPERS["dice"]
                add(attack, radius, head, "dice", mean, 0.01)
            add(attack, radius, "contour", "point_error", 30.0 if adversary in ("none", "seg") else 0.3, 0.25)
            if rec:
                aware = [one for one in detectors if adversary == f"aware:{one}"]
                scored(attack, radius, adversary.partition(":")[0], aware or detectors)
            if adversary != "none":
                add(attack, radius, "attack", "step", 300, 50)
                add(attack, radius, "attack", "finished", 0.0, 0.0)
                add(attack, radius, "perturbation", "l2", 12.0, 2.0)
                add(attack, radius, "perturbation", "own", PAPERS["own"].get(name, 0.1), 0.04)
                add(attack, radius, "perturbation", "others", 0.05, 0.04)
    return Table(found)


def examples(name):
    rng = np.random.default_rng(0)
    angle = torch.linspace(0, 2 * torch.pi, 177)[:-1]
    contour = torch.stack([32 + 20 * angle.cos(), 32 + 9 * angle.sin()], dim=-1).expand(3, -1, -1)
    mask = rasterise(contour, (SIZE, SIZE))[:, None].float()
    x_in = (0.3 + 0.4 * mask + 0.1 * torch.from_numpy(rng.random(mask.shape))).float().numpy()
    lung = np.full((3, 1, SIZE, SIZE), 0.1, np.float32)
    lung[..., 10:50, 8:28] = lung[..., 10:50, 36:56] = 0.7
    arrays = {
        "source": "lung_ct",
        "patients": np.array(["p0"] * 3),
        "levels": np.array(LEVELS[:3]),
        "x_in": x_in,
        "contour_in": contour.numpy(),
        "mask_in": (mask - 0.5).numpy(),
        "x_none": lung,
        "contour_none": contour.numpy() * 0.5 + 10,
        "mask_none": (np.roll(mask.numpy(), 12, 2) - 0.5).astype(np.float32),
    }
    for attack in ("unaware", "aware_reconstruction") if name.endswith("_rec") else ("reg", "seg"):
        noise = rng.normal(size=lung.shape) * 0.15 + (0.3 * mask.numpy() if "adv" in name else 0)
        arrays[f"x_{attack}"] = np.clip(lung + noise, 0, 1).astype(np.float32)
        arrays[f"contour_{attack}"] = (contour + (9.0 if attack == "seg" else 0.3)).numpy()
        arrays[f"mask_{attack}"] = (mask - (1.5 if attack == "reg" else 0.5)).numpy()
        if name.endswith("_rec"):
            arrays[f"reconstruction_{attack}"] = arrays["reconstruction_in"] = x_in
    return arrays


@pytest.fixture(scope="module")
def manifest():
    return prepare.build(Options("phantom", patients=3, test_patients=1, size=32)).manifest


def make(folder, manifest, names=MODELS):
    """Write results as the study does."""
    counts = {"lung_ct": {"images": 1, "skipped": ["scan <7>.dcm: no pixels | broken"]}}
    about = {
        "command": "lumbar-disk ood --ood <images> --out results/ood",
        "environment": {"python": "3.11", "advreg": "0.1.0", "torch": "2.6.0", "device": "CPU", "threads": 2},
        "recipe": asdict(replace(recipes.ood("small"), contour_within=0.5, mask_within=0.98)),
        "data": manifest,
        "patients": {"train": 48, "test": PATIENTS},
        "discs": {"train": 240, "test": DISCS},
        "wall_seconds": None,
        "ood": {"sources": {"uniform": {"images": DISCS, "skipped": []}} | counts},
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    for name in names:
        model = folder / "models" / name
        table(name).save(model / "table.csv")
        np.savez_compressed(model / "examples.npz", **examples(name))
        known = {"name": name, "steps": 1000, "parameters": 123456, "warm_start": None}
        (model / "model.json").write_text(
            json.dumps(known | {"seconds_training": 100.0, "seconds_evaluation": 20.0})
        )
    return folder


class Page(HTMLParser):
    """The tags of a page, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, manifest):
    folder = make(tmp_path_factory.mktemp("ood"), manifest)
    files = ood_report.write(folder)
    return folder / "report", files, Page((folder / "report" / "report.html").read_text())


def small(name, *change, **options):
    """What the claims need of a model."""
    return table(name, *change, sources=["lung_ct"], detectors=DETECTORS[:1], **options)


@pytest.fixture(scope="module")
def tables():
    return {name: small(name) for name in MODELS}


def claims_of(tables, sources=("lung_ct",)):
    return judge(measure(tables, sources, WITHIN, resamples=500))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_papers_claims_hold_for_results_like_the_papers(tables):
    claims = claims_of(tables)
    assert [claim.number for claim in claims] == [7, 8, 9]
    assert [claim.verdict for claim in claims] == ["holds"] * 3
    assert [[part.verdict for part in claim.parts] for claim in claims] == [
        ["holds"] * 2,
        ["holds"] * 2 + ["not judged"] * 4,
        ["holds"] * 2,
    ]
    known = [part.question.text for part in claims[1].parts]
    assert sum("clean OOD only" in text for text in known) == 2
    assert [part.condition for part in claims[1].parts] == ["below 0.5"] * 2 + [""] * 4
    assert claims[1].parts[2].measured.mean == 1.0  # clean: told, and far above 0.5


@pytest.mark.parametrize(
    ("number", "model", "head", "metric", "adversary", "values", "verdict"),
    [
        (7, "P10_std", "mask", "dice", "seg", [0.9] * DISCS, "fails"),
        (7, "P10_std", "contour", "dice", "reg", [0.9] * 15 + [0.99] * 15, "undecided"),
        (8, "P10_std_rec", "detector", "reconstruction", "unaware", [0.2] * DISCS, "fails"),
        (8, "P10_adv_rs_rec", "detector", "reconstruction", "unaware", [0.01, 0.2] * 15, "undecided"),
        (9, "P10_adv_rs_rec", "perturbation", "own", "unaware", [0.0] * DISCS, "fails"),
        (9, "P10_std_rec", "perturbation", "own", "unaware", [0.0] * 15 + [0.8] * 15, "undecided"),
    ],
)
def test_a_claim_falls_with_its_measurements(tables, number, model, head, metric, adversary, values, verdict):
    def change(*what):
        return np.array(values) if what[:3] == (head, metric, adversary) else what[3]

    found = claims_of({**tables, model: small(model, change)})
    assert [claim.verdict for claim in found if claim.number == number] == [verdict]
    assert {claim.verdict for claim in found if claim.number != number} == {Verdict.holds}


def test_what_is_missing_is_named(tables):
    found = claims_of({"P10_std": tables["P10_std"]})
    assert [claim.verdict for claim in found] == ["holds", "not computed", "not computed"]
    assert found[1].parts[0].reason == "P10_std_rec not there"
    assert found[2].parts[1].reason == "P10_adv_rs_rec not there"
    some = Table(row for row in tables["P10_std"] if not row.attack.endswith("/seg"))
    first = claims_of({"P10_std": some})[0]
    assert [part.reason for part in first.parts] == ["", "lung_ct/seg was not evaluated"]
    assert first.verdict is Verdict.missing
    assert {claim.verdict for claim in claims_of({})} == {Verdict.missing}


def test_differences_between_models_are_taken_disc_by_disc(tables):
    def change(head, metric, adversary, values):
        both = np.linspace(0, 0.9, DISCS) + 0.05 * ("own" in metric)
        return both if head == "perturbation" else values

    two = {name: small(name, change) for name in MODELS[1:]}
    part = claims_of({**tables, **two})[2].parts[1]
    assert part.measured == pytest.approx((0, 0, 0))
    with pytest.raises(ValueError, match="30 and 25, 25 of them for both"):
        claims_of({**tables, "P10_std_rec": small("P10_std_rec", discs=25)})


def test_the_first_source_stands_in_for_lung_ct(tables):
    renamed = {
        name: Table(row._replace(attack=row.attack.replace("lung_ct", "blocks")) for row in one)
        for name, one in tables.items()
    }
    found = claims_of(renamed, ["blocks", "uniform"])
    assert "attacked images of blocks" in found[0].sentence
    assert {claim.verdict for claim in found} == {Verdict.holds}
    with pytest.raises(ValueError, match="at least one source"):
        claims_of({}, [])


def test_the_median_is_resampled_as_a_plain_loop_does():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=11).round(1), list("aabbbcddddd")
    found = median(values, groups, resamples=400, seed=3)
    drawn = np.random.default_rng(3).multinomial(4, [1 / 4] * 4, size=400)
    members = [
        np.array([value for value, group in zip(values, groups, strict=True) if group == one])
        for one in "abcd"
    ]
    medians = [
        np.median(np.concatenate([np.tile(one, times) for one, times in zip(members, row, strict=True)]))
        for row in drawn
    ]
    assert found == pytest.approx((np.median(values), *np.quantile(medians, [0.025, 0.975])))
    assert np.isnan(median([1.0, 2.0], ["a", "a"]).low)
    with pytest.raises(ValueError, match="1 not finite"):
        median([1.0, np.nan], ["a", "b"])


def test_what_counts_as_matched_is_what_was_attacked(tables):
    pairs = measure(tables, ["lung_ct"], WITHIN, resamples=9).matchings
    near = tables["P10_std"].where(attack="lung_ct/reg", metric="point_error").values() <= 0.5
    assert pairs["P10_std", "lung_ct", "reg"].matched == near.mean() > 0.5
    assert pairs["P10_std", "lung_ct", "none"].matched == 0
    pair = tables["P10_std_rec"].where(attack="lung_ct/aware:reconstruction")
    both = (pair.where(metric="point_error").values() <= 0.5) & (
        pair.where(head="mask", metric="dice").values() >= 0.98
    )
    assert pairs["P10_std_rec", "lung_ct", "aware:reconstruction"].matched == both.mean()


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
    measured = measure({"P10_std_rec": small("P10_std_rec")}, ["lung_ct"], WITHIN, resamples=9)
    figure = ood_figures.error_figure(measured)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[1] == "OOD, no adversary: AUROC 1.00 (clean OOD only)"
    assert re.fullmatch(r"OOD, unaware adversary: AUROC 0\.\d\d", texts[2])
    assert figure.axes[1].get_title().endswith("(missing)")


def test_the_page_says_what_was_measured(whole):
    folder, _, page = whole
    markdown = (folder / "report.md").read_text()
    claims = json.loads((folder / "claims.json").read_text())
    assert [claim["number"] for claim in claims] == [7, 8, 9]
    assert len(rows_of(folder / "claims.csv")) == 10
    for claim in claims:
        assert f"{claim['number']}. {claim['title']} {claim['verdict']} {claim['sentence']}" in page.text
        assert f"| {claim['number']}. {claim['title']} | **{claim['verdict']}** |" in markdown
    for row in rows_of(folder / "matching.csv"):
        shown = [f"{float(row[f'contour_dice_{name}']):.3f}" for name in ("median", "low", "high")]
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
    assert count == 1 + 3 + 2 + 3 + 1 + 4


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path, manifest, monkeypatch):
    folder = make(tmp_path / "ood", manifest, ["P10_adv_rs_rec"])
    (folder / "report").mkdir()
    (folder / "report" / "figure10.png").write_text("of an earlier run")
    for name in ("error_figure", "perturbation_figure"):
        monkeypatch.setattr(ood_figures, name, lambda *args, **options: Figure((1, 1)))  # drawn elsewhere
    assert {path.name for path in ood_report.write(folder)} == FILES - {"figure1b.png", "figure10.png"}
    assert not (folder / "report" / "figure10.png").exists()
    page = Page((folder / "report" / "report.html").read_text())
    assert "Not there: P10_std, P10_std_rec. 2 of them belong to this run and are still to come." in page.text
    assert page.text.count("Not drawn: none of its models is there.") == 2
    claims = json.loads((folder / "report" / "claims.json").read_text())
    assert [claim["verdict"] for claim in claims] == ["not computed"] * 3
    assert [part["verdict"] for part in claims[2]["parts"]] == ["holds", "not computed"]


def test_a_run_just_begun_is_reported(tmp_path, manifest):
    folder = make(tmp_path / "ood", manifest, [])
    names = {path.name for path in ood_report.write(folder)}
    assert names == {name for name in FILES if not name.endswith(".png")}
    assert "No detector was tried yet." in Page((folder / "report" / "report.html").read_text()).text


def test_figures_show_what_is_there_wide_and_tall():
    shown = {name: examples(name) for name in MODELS}
    for tall in (False, True):
        figure = ood_figures.example_figure(shown["P10_std"], tall=tall)
        assert isinstance(figure, Figure)
        titles = [axes.get_title() for axes in figure.axes]
        assert len(titles) == 8
        assert sum("not attacked" in title for title in titles) == 2
        figure = ood_figures.perturbation_figure(shown, tall=tall)
        assert len(figure.axes) == 2 * 3 * 4
        measured = measure({"P10_std": small("P10_std")}, ["lung_ct"], WITHIN, resamples=9)
        panels = ood_figures.dice_figure(measured, tall=tall).axes
        assert [panel.get_xlim() for panel in panels] == [(-0.01, 1.01)] * 2
    assert "mask of the image attacked on the mask 1.00." in ood_figures.example_text(shown["P10_std"])
    del shown["P10_std_rec"]
    assert len(ood_figures.perturbation_figure(shown).axes) == 3 * 4


def test_another_studys_folder_is_refused_with_the_remedy(tmp_path, manifest):
    folder = make(tmp_path / "ood", manifest, [])
    about = json.loads((folder / "study.json").read_text())
    about["recipe"] = asdict(recipes.small())
    del about["ood"]
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="without ood_radius, contour_within, mask_within, ood"):
        ood_report.write(folder)
    assert results.read(folder, ood_tables.ordered).missing == MODELS
