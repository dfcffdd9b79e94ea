import multiprocessing
import runpy
from collections import Counter
from html.parser import HTMLParser
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from lumbar_disk.data import Options, build

collect_ignore = ["command.py"]
SCRIPT = Path(__file__).with_name("command.py")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks are fastest on one thread, and far faster where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Run:
    """One run of `lumbar-disk` in a process of its own."""

    def __init__(self, process, out, err):
        self.process, self.out, self.err = process, out, err

    def kill(self):
        """Kill it, and say whether it was running until then."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -9

    def finished(self):
        """Wait for its end, and return what it wrote."""
        self.process.join(240)
        assert self.process.exitcode == 0, self.err.read_text()
        return self.out.read_text(), self.err.read_text()


@pytest.fixture(scope="session")
def forking():
    """Makes processes forked from one that has imported `lumbar-disk`, which is soon done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lumbar_disk.cli", "torch._dynamo"])  # which optimisers import late
    return context


@pytest.fixture(scope="session")
def start(forking, tmp_path_factory):
    """Start `lumbar-disk WORDS` in a process of its own."""
    folder, numbers, begun = tmp_path_factory.mktemp("output"), count(), []

    def run(*words, **environment):
        number = next(numbers)
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        given = {"WORDS": [*map(str, words)], "ENVIRONMENT": environment, "OUT": str(out), "ERR": str(err)}
        process = forking.Process(
            target=runpy.run_path,
            args=(str(SCRIPT),),
            kwargs={"init_globals": given, "run_name": "__main__"},
        )
        process.start()
        begun.append(process)
        return Run(process, out, err)

    yield run
    for process in begun:
        process.kill()


TINY = (
    "--data=phantom",
    "--patients=4",
    "--size=smoke",
    "--threads=1",
    "--checkpoint-every=0",
    "--set=test_patients=1",
    "--set=virtual=40",
    "--set=std_epochs=3",
    "--set=batches=2",
    "--set=radii=0,0.03",
)


@pytest.fixture(scope="session")
def tiny():
    """The options of a study that takes seconds."""
    return TINY


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """A folder that whichever process of the tests needs it first makes, and no other; none changes it."""
    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent

    def folder(name, make):
        with FileLock(root / f"{name}.lock"):
            out, whole = root / name, root / f"{name}.whole"
            if not whole.exists():
                assert not out.exists(), f"making {name} failed in another process"
                out.mkdir()
                make(out)
                whole.touch()
        return out

    return folder


@pytest.fixture(scope="session")
def whole_study(made_once, start):
    """The folder of a tiny study with its report, which was never killed; and what the run printed."""

    def make(folder):
        stdout, _ = start("study", *TINY, f"--out={folder / 'out'}", "--report").finished()
        (folder / "stdout").write_text(stdout)

    folder = made_once("whole_study", make)
    return folder / "out", (folder / "stdout").read_text()


@pytest.fixture(scope="session")
def whole_ood(made_once, start):
    """The folder of a tiny out-of-distribution study with its report."""

    def make(folder):
        pictures = folder / "pictures" / "lung_ct"
        pictures.mkdir(parents=True)
        Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(pictures / "a.png")
        words = [*TINY, f"--ood={folder / 'pictures'}", f"--out={folder / 'out'}", "--set=ood_steps=2"]
        start("ood", *words).finished()

    return made_once("whole_ood", make) / "out"


@pytest.fixture(scope="session")
def manifest():
    """The manifest of a few phantoms."""
    return build(Options("phantom", patients=3, test_patients=1, size=32)).manifest


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


@pytest.fixture(scope="session")
def page_of():
    """Read the page of a report."""
    return lambda folder: Page((folder / "report.html").read_text())
