"""No command shows a password, whatever goes wrong with the address that holds it."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import Gemmill
from fake_openai import FakeOpenAi

from data_checks.sample import SAMPLE_DIR

_SECRET = "s3cr3t"
_NOBODY = "127.0.0.1:9"  # the discard port, where no server listens
_ADDRESS = f"http://bob:{_SECRET}@{_NOBODY}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "plant"
    folder.mkdir()
    (folder / "test.jsonl").write_text((SAMPLE_DIR / "test.jsonl").read_text().partition("\n")[0] + "\n")
    shutil.copy(SAMPLE_DIR / "labels.toml", folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "code"),
    [
        (["promote", "1"], "MLFLOW_TRACKING_URI", _ADDRESS, 5),
        (["evaluate", "models:/plant@champion", "--data", "{data}"], "MLFLOW_TRACKING_URI", _ADDRESS, 5),
        (["rollback"], "MLFLOW_TRACKING_URI", f"nosuch://bob:{_SECRET}@plant/mlflow", 2),
        (["due"], "GEMMILL_DATABASE_URL", f"nosuch://bob:{_SECRET}@plant/audit", 2),
        (["due"], "GEMMILL_DATABASE_URL", f"nosuch:///audit?user=bob&password={_SECRET}", 2),
        (["evaluate", "ollama:plant", "--data", "{data}"], "OLLAMA_HOST", f"bob:{_SECRET}@{_NOBODY}", 5),
        (["evaluate", f"{_ADDRESS}/?token={_SECRET}", "--data", "{data}"], "OLLAMA_HOST", _NOBODY, 5),
        (["evaluate", f"http://bob:{_SECRET}@", "--data", "{data}"], "OLLAMA_HOST", _NOBODY, 2),
        (["evaluate", f"http://bob:{_SECRET}#x@plant", "--data", "{data}"], "OLLAMA_HOST", _NOBODY, 2),
        (["evaluate", "ollama:plant", "--data", "{data}"], "OLLAMA_HOST", f"http://bob:{_SECRET}/x@plant", 2),
    ],
)
def test_an_address_is_named_without_its_password(
    arguments: list[str], variable: str, value: str, code: int, gemmill: Gemmill, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, value)
    ran = gemmill(*(argument.format(data=data) for argument in arguments))
    assert ran.code == code, ran
    assert _SECRET not in ran.out + ran.err and "***" in ran.err


def test_a_report_names_the_server_without_its_password(gemmill: Gemmill, data: Path, tmp_path: Path) -> None:
    with FakeOpenAi(str) as server:
        model = f"http://bob:{_SECRET}@{server.host}/v1?token={_SECRET}"
        ran = gemmill("evaluate", model, "--data", data, "--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert ran.code == 0, ran
    assert server.requests[-1] == f"POST /v1/chat/completions?token={_SECRET}"
    assert server.headers[0]["Authorization"].startswith("Basic ")
    assert _SECRET not in ran.out + ran.err + (tmp_path / "r.html").read_text()
    shown = json.loads((tmp_path / "r.json").read_text())["model"]
    assert shown == f"http://bob:***@{server.host}/v1?token=***"
