"""Weights: exported from a study that was trained here, indexed, and loaded by name."""

import json
import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

import lumbar_disk
from lumbar_disk.cli import app
from lumbar_disk.data import load
from lumbar_disk.network import UNet
from lumbar_disk.weights import _pretrained, export_weights, pretrained, read_index

NAMES = ("P10_std", "P10_adv_rs")
HERE = _pretrained.HERE
LARGEST = 12_000_000


@pytest.fixture(scope="module")
def exported(whole_study, tmp_path_factory):
    """The study's folder, and what the command wrote of it."""
    out = tmp_path_factory.mktemp("exported") / "weights"
    result = CliRunner().invoke(app, ["export-weights", str(whole_study[0]), f"--out={out}"])
    assert result.exit_code == 0, result.output
    files = [f"{name}.{end}" for name in NAMES for end in ("pt", "md")]
    assert result.stdout.splitlines() == [f"wrote {out / name}" for name in (*files, "index.json")]
    return whole_study[0], out


@pytest.fixture
def copied(exported, tmp_path):
    out = tmp_path / "weights"
    shutil.copytree(exported[1], out)
    return out


def weights(study, name):
    return torch.load(study / "models" / name / "weights.pt", weights_only=True)["net"]


@pytest.mark.parametrize("name", NAMES)
def test_a_network_by_name_is_the_studys_rounded_to_half_precision(exported, name):
    study, out = exported
    net = lumbar_disk.pretrained(name, folder=out)
    assert not net.training
    original = weights(study, name)
    assert net.state_dict().keys() == original.keys()
    for key, value in net.state_dict().items():
        assert value.dtype is torch.float32
        torch.testing.assert_close(value, original[key].half().float(), rtol=0, atol=0)
    trained = UNet(read_index(out)[name].width, net.size).eval()
    trained.load_state_dict(original)
    images = load(study / "data.npz").test.images
    with torch.inference_mode():
        found, expected = net(images), trained(images)
    for head, answer in expected.items():
        torch.testing.assert_close(found[head], answer, rtol=0.01, atol=0.01 * float(answer.abs().max()))


def test_files_take_half_the_room(exported):
    study, out = exported
    for name in NAMES:
        numbers = sum(one.numel() for one in weights(study, name).values())
        whole, half = (
            path.stat().st_size for path in (study / "models" / name / "weights.pt", out / f"{name}.pt")
        )
        assert whole - half == pytest.approx(2 * numbers, rel=0.1)  # each tensor begins at a multiple of 64
        assert read_index(out)[name].bytes == half


def test_cards_say_what_a_reader_must_know(exported):
    study, out = exported
    manifest = load(study / "data.npz").manifest
    for name in NAMES:
        card = (out / f"{name}.md").read_text()
        for text in (
            f"# {name}\n",
            read_index(out)[name].sha256,
            f"patients of the test | {manifest['test_patients'][0]} |",
            manifest["arrays"]["images"],
            "synthetic anatomy, drawn from a seed",
            "lumbar-disk study --data phantom",
            "| auto_passes | 4 |",
            f'pretrained("{name}")',
        ):
            assert text in card
        for block in card.split("\n\n"):
            lines = block.strip().splitlines()
            if lines and lines[0].startswith("|"):
                assert len({line.count("|") for line in lines}) == 1
        row = re.search(r"mask Dice, attack on the mask:.*?\n\| 0.03 \|(.*?)\n", card, re.DOTALL)[1]
        assert len(re.findall(r"\d\.\d{3} \(no interval\)", row)) == 2  # of one test patient


def test_of_spider_the_card_names_its_licence(exported, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(exported[0], study, ignore=shutil.ignore_patterns("virtual"))
    about = json.loads((study / "study.json").read_text())
    about["data"]["options"] |= {"data": "spider"}
    (study / "study.json").write_text(json.dumps(about))
    export_weights(study, tmp_path / "out", ["P10_std"])
    card = (tmp_path / "out" / "P10_std.md").read_text()
    assert "SPIDER" in card
    assert "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/" in card
    assert "10.5281/zenodo.10159290" in card
    assert list(read_index(tmp_path / "out")) == ["P10_std"]
    export_weights(exported[0], tmp_path / "out", ["P10_adv_rs"])
    assert list(read_index(tmp_path / "out")) == sorted(NAMES)  # what was there stays


def test_the_shipped_files_are_found_by_the_packages_index(exported, copied, tmp_path, monkeypatch):
    monkeypatch.setattr(_pretrained, "HERE", copied)
    assert isinstance(pretrained("P10_std"), UNet)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("LUMBAR_WEIGHTS", str(elsewhere))
    with pytest.raises(FileNotFoundError, match="LUMBAR_WEIGHTS to the folder examples/lumbar_disk/weights"):
        pretrained("P10_std")  # there and nowhere else
    shutil.copy(copied / "P10_std.pt", elsewhere)
    assert isinstance(pretrained("P10_std"), UNet)
    shutil.copy(copied / "P10_adv_rs.pt", elsewhere / "P10_std.pt")
    with pytest.raises(ValueError, match=f"{elsewhere}/P10_std.pt is not the file that the index names"):
        pretrained("P10_std")


def test_mistakes_are_named_with_the_remedy(copied, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no weights of 'P3_std': .*weights has P10_adv_rs, P10_std\. Choose"
    ):
        pretrained("P3_std", folder=copied)
    monkeypatch.setattr(_pretrained, "HERE", tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no weights of 'P10_std': this version ships none\. Choose"):
        pretrained("P10_std")
    with pytest.raises(FileNotFoundError, match="expected a folder that `lumbar-disk export-weights` wrote"):
        pretrained("P10_std", folder=tmp_path / "nowhere")
    path = copied / "P10_std.pt"
    sha = read_index(copied)["P10_std"].sha256
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        ValueError, match=f"{path} is not the file .* expected SHA-256 {sha} and .* Get the file"
    ):
        pretrained("P10_std", folder=copied)
    (copied / "index.json").write_text('{"P10_std": {"width": 2}}')
    with pytest.raises(ValueError, match=r"index\.json is damaged, or is not what it should be: .* Restore"):
        pretrained("P10_std", folder=copied)


def test_what_cannot_be_exported_is_refused(exported, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(exported[0], study, ignore=shutil.ignore_patterns("virtual"))
    (study / "models" / "P10_adv_rs" / "model.json").unlink()
    result = CliRunner().invoke(
        app, ["export-weights", str(study), f"--out={tmp_path / 'out'}", "--models=P10_adv_rs"]
    )
    assert result.exit_code == 2
    assert "got none of P10_adv_rs. There are: P10_std." in result.stderr
    path = study / "models" / "P10_std" / "weights.pt"
    kept = torch.load(path, weights_only=True)
    kept["net"]["stem.0.weight"][0] = 1e6
    torch.save(kept, path)
    with pytest.raises(ValueError, match=r"weights.pt: expected weights below 65504.*stem.0.weight"):
        export_weights(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_shipped_is_small_and_whole():
    for name, entry in read_index(HERE).items():
        assert (HERE / f"{name}.md").is_file()
        assert entry.bytes <= LARGEST
        assert pretrained(name).size == entry.size
