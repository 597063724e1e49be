import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROWS, Gemmill, Ran
from learnt_model import doubting, learnt_gguf, learnt_model_dir, model, plant_labels, plant_records
from rich.text import Text

from data_checks.sample import SAMPLE_DIR
from flows.cli import main as cli
from flows.cli import options
from registry.tracking import client
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType

__all__ = ["doubting", "learnt_gguf", "learnt_model_dir", "model", "plant_labels", "plant_records"]
_LOGGERS = ("flows", "tasks", "registry", "deployment", "data_checks", "bitsandbytes")


@pytest.fixture
def gemmill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Gemmill]:
    """``gemmill`` in this process, which is afterwards as it was: loggers, settings, home and MLflow's connection."""
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(client, "_connection", None)
    monkeypatch.setattr(options, "_located", None)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gemmill", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Ran(code=code, out=Text.from_ansi(said.out).plain, err=Text.from_ansi(said.err).plain)

    yield run
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few records of the shipped sample as a test split, beside its label set."""
    folder = tmp_path_factory.mktemp("plant")
    lines = (SAMPLE_DIR / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:ROWS]))
    shutil.copy(SAMPLE_DIR / "labels.toml", folder)
    return folder


@pytest.fixture(scope="session")
def bad_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bad") / "bad.jsonl"
    file.write_text('{"command": "SG-1 leaks", "response": {"intent": "report_issue", "entities": {}}}\nnot json\n')
    return file


@pytest.fixture(scope="session")
def gguf(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as Q8_0."""
    return export_gguf(tiny_model_dir, tmp_path_factory.mktemp("gguf") / "tiny.gguf", weights=QuantType.Q8_0).path


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing was registered."""
    return tmp_path_factory.mktemp("empty")
