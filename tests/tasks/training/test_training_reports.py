"""Loss curves and progress: what a person sees of a training."""

import io
import logging
from pathlib import Path

import pytest

from tasks.training import progress as progress_module
from tasks.training.loop import History
from tasks.training.plots import plot_losses
from tasks.training.progress import Progress


def test_the_loss_curve_is_a_png(tmp_path: Path) -> None:
    history = History(
        steps=6, train_loss=[3.0, 2.0, 1.5, 1.2, 1.0, 0.9], validation_loss=[1.6, 1.1], validation_steps=[3, 6],
        tokens=100, seconds=1.0,
    )  # fmt: skip
    assert plot_losses(history, tmp_path / "losses.png", title="teacher") == tmp_path / "losses.png"
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_terminal_progress_is_a_log_line_with_an_eta(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, logger="tasks"), Progress("teacher", 10, done=4) as progress:
        for step in range(6):
            progress.advance(2.0 / (step + 1))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "teacher: step 6 of 10, loss 1.000, ETA 0:01:20",
        "teacher: step 8 of 10, loss 0.500, ETA 0:00:40",
        "teacher: step 10 of 10, loss 0.333, ETA 0:00:00",
    ]


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.INFO, logger="tasks"), Progress("student", 2) as progress:
        progress.advance(1.5)
        progress.advance(0.25)
    assert "student" in terminal.getvalue() and "0.250" in terminal.getvalue()
    assert not caplog.records
