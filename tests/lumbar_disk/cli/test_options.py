"""How the commands end where they are interrupted."""

import os
import signal
import time

import pytest
import torch
import typer

from lumbar_disk.cli._options import plainly

IGNORED = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored in the background"
)
ENDS = [pytest.param("SIGINT", 130, marks=IGNORED), ("SIGTERM", 143)]


@pytest.mark.parametrize(("name", "status"), ENDS)
def test_an_interrupted_study_says_that_it_goes_on(start, tiny, tmp_path, name, status):
    out = tmp_path / "out"
    run = start("study", *tiny, f"--out={out}", "--no-report", "--set=std_epochs=2000")
    moment = out / "models" / "P10_std" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not moment.exists() and run.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(run.process.pid, getattr(signal, name))
    run.process.join(60)
    told = run.err.read_text()
    assert run.process.exitcode == status, told
    assert (
        f"lumbar-disk: ended by {name}; what was finished is kept in {out}, and the same command goes" in told
    )
    assert "Traceback" not in told
    assert not list(out.rglob(".*.pt.*"))  # nothing half written


@pytest.mark.parametrize(("name", "status"), ENDS)
def test_a_command_that_keeps_nothing_says_so(capsys, name, status):
    def work():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended, plainly():
        work()
    assert ended.value.exit_code == status
    assert signal.getsignal(signal.SIGTERM) is before
    told = f"lumbar-disk: ended by {name}; every file is whole or not there; the same command begins anew."
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "the memory is not enough (MemoryError). Use a smaller --set batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough (OutOfMemoryError: CUDA out of memory)"),
        (FloatingPointError("the training loss is nan"), "lumbar-disk: the training loss is nan"),
        (
            PermissionError(13, "Permission denied", "a.csv"),
            "a.csv cannot be used: Permission denied. Give leave",
        ),
    ],
)
def test_mistakes_end_in_one_line(capsys, error, told):
    with pytest.raises(typer.Exit) as ended, plainly():
        raise error
    assert ended.value.exit_code == 2
    assert told in capsys.readouterr().err
