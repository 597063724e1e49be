import logging
import sys
from collections.abc import Iterator

import pytest
from command_line import Gemmill, Ran
from rich.text import Text

from flows import cli
from registry import mlflow_store

_LOGGERS = ("flows", "tasks", "registry", "deployment", "data_checks", "bitsandbytes")


@pytest.fixture
def gemmill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Gemmill]:
    """``gemmill`` in this process, which is afterwards as it was: loggers, settings and MLflow's connection."""
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(mlflow_store, "_connection", None)
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
