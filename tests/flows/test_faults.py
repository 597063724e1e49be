"""How a command ends when something goes wrong: one sentence, and the exit code that says whose fault it is."""

import errno
import json
import os
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from canned_server import CannedServer
from command_line import Gemmill, gemmill_process
from fake_openai import FakeOpenAi
from torch import OutOfMemoryError

import flows
from flows.cli import faults, models, options
from flows.cli.faults import as_expected
from registry.errors import GateBlocked, ServiceUnavailable, UsageError
from registry.store.datasets import AuditStore

_NOBODY = "http://127.0.0.1:9"  # the discard port, where no server listens
_SECRET = "s3cr3t"
_RECORD = '{"command": "SG-1 leaks", "response": {"intent": "report_issue", "entities": {}}}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "test.jsonl").write_text(_RECORD + _RECORD.replace("SG-1", "SG-2"))
    return tmp_path / "test.jsonl"


def _caused(error: Exception) -> Exception:
    wrapped = RuntimeError("it did not work")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (MemoryError(), UsageError, "not enough memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), UsageError, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), UsageError, "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), UsageError, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/plant/x"), UsageError, "no room left for /plant/x"),
        (ValueError("Error while serializing: Os { kind: StorageFull }"), UsageError, "no room left"),
        (PermissionError(errno.EACCES, "Permission denied", "/plant/x"), UsageError, "/plant/x cannot be used"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), UsageError, "/x cannot be used: File name too long;"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x"), UsageError, "/x cannot be used: Not a directory;"),
        (OSError(errno.ELOOP, "Too many symbolic links", "/x"), UsageError, "/x cannot be used: Too many"),
        (RuntimeError(f"Failed to reach API at {_NOBODY}/api/"), ServiceUnavailable, "Prefect's server"),
        (httpx.ReadTimeout("timed out"), ServiceUnavailable, "out of reach: timed out"),
        (httpx.ConnectError(""), ServiceUnavailable, "out of reach: ConnectError"),
        (GateBlocked("a gate"), GateBlocked, "a gate"),
    ],
)
def test_what_the_machine_or_a_server_lacks_is_no_fault_of_gemmill(
    error: Exception, kind: type[Exception], said: str
) -> None:
    for raised in (error, _caused(error)):
        found = as_expected(raised)
        assert type(found) is kind and said in str(found)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shape"), FileNotFoundError(errno.ENOENT, "No", "x")])
def test_any_other_error_is_one(error: Exception) -> None:
    assert as_expected(error) is None


@pytest.mark.parametrize("command", [["inspect"], ["retrain", "--profile"]])
def test_a_name_that_no_file_can_have_is_refused(command: list[str], gemmill: Gemmill) -> None:
    gemmill(*command, "a" * 300).assert_refused(2, "a" * 300)


def test_a_fault_of_gemmill_is_a_sentence_with_a_log_and_exits_with_1(
    gemmill: Gemmill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError(f"http://bob:{_SECRET}@plant")

    monkeypatch.setenv("GEMMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(models, "require_all_writable", fail)
    ran = gemmill("inspect", "model")
    ran.assert_refused(1, "a fault of its own, KeyError")
    assert "\n" not in ran.err.strip() and "Nothing that was stored is lost" in ran.err
    [log] = (tmp_path / "home" / "logs").iterdir()
    assert str(log) in ran.err
    text = log.read_text()
    assert "Traceback" in text and "in fail" in text and _SECRET not in text + ran.err
    monkeypatch.setattr(faults, "write_text", lambda *_: (_ for _ in ()).throw(UsageError("The disk is full.")))
    gemmill("inspect", "model").assert_refused(1, "its traceback is lost, since The disk is full.")


@pytest.mark.parametrize("command", [["ingest", "{data}"], ["retrain"], ["deploy"]])
@pytest.mark.parametrize("status", [None, 503])
def test_a_dead_prefect_is_told_at_once(
    status: int | None, command: list[str], gemmill: Gemmill, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with CannedServer("", status=status or 200) as server:
        url = f"http://bob:{_SECRET}@{server.host}/api" if status else _NOBODY
        monkeypatch.setenv("PREFECT_API_URL", url)
        ran = gemmill(*(part.format(data=data) for part in command), "--home", tmp_path / "home")
    ran.assert_refused(5, "No Prefect server answers at http://")
    assert _SECRET not in ran.err


def test_an_mlflow_that_answers_500_exits_with_5(gemmill: Gemmill, monkeypatch: pytest.MonkeyPatch) -> None:
    with CannedServer("oops", status=500) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.host}")
        gemmill("promote", "1").assert_refused(5, "answers 500")


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "GEMMILL_DATABASE_URL"])
@pytest.mark.parametrize("url", ["postgresql+pg8000://bob:s3cr3t@plant/db", "nosuch://bob:s3cr3t@plant/db"])
def test_a_driver_that_is_missing_exits_with_2(
    url: str, variable: str, gemmill: Gemmill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, url)
    ran = gemmill("promote" if variable.startswith("MLFLOW") else "due", *(["1"] if "MLFLOW" in variable else []))
    ran.assert_refused(2, "needs a database driver that is not installed")
    assert _SECRET not in ran.err


def test_a_full_disk_of_the_audit_store_exits_with_2(tmp_path: Path) -> None:
    rows = [("train", json.loads(_RECORD) | {"command": f"{number} {'x' * 500}"}) for number in range(300)]
    with AuditStore(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        engine = store._database._engine
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 30"))
        with pytest.raises(UsageError, match=r"disk of the audit store .* is full; nothing was stored"):
            store.ingest("plant", rows, source="s", labels='name = "plant"\n')
        assert store.rows("plant") == []


@pytest.mark.parametrize("body", ["<!DOCTYPE html><p>Welcome", "{}", '{"error": "no route"}', "", "[]"])
def test_a_server_that_is_no_model_is_not_scored(body: str, gemmill: Gemmill, data: Path, tmp_path: Path) -> None:
    with CannedServer(body) as server:
        ran = gemmill("evaluate", f"http://{server.host}", "--data", data, "--json", tmp_path / "report.json")
    ran.assert_refused(5, "does not answer as an OpenAI-compatible server does")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("text", ['{"intent": "report_issue", "entities": {"asset_', '{"intent": 7}', "I am a model."])
def test_a_bad_model_behind_a_server_is_scored(text: str, gemmill: Gemmill, data: Path, tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: text) as server:
        ran = gemmill("evaluate", server.address, "--data", data, "--json", tmp_path / "report.json")
    assert ran.code == 0, ran
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["json_validity"] == 0


@pytest.mark.parametrize("own", ["", "plant.example"])
def test_this_machine_is_never_asked_through_a_proxy(own: str, data: Path, tmp_path: Path) -> None:
    dead = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), _NOBODY)
    with FakeOpenAi(str) as server:
        ran = gemmill_process(tmp_path / "home", "evaluate", server.address, "--data", data, **dead, NO_PROXY=own)
    assert ran.code == 0, ran
    assert len(server.bodies) == 3  # the first to warm the model up


@pytest.mark.parametrize(
    ("own", "expected"), [("*", "*"), ("a, b", "a,b,localhost,127.0.0.1,::1"), ("::1", "::1,localhost,127.0.0.1")]
)
def test_hosts_that_a_user_reaches_without_a_proxy_stay_so(own: str, expected: str) -> None:
    assert flows.reached_directly(own) == expected


def test_an_empty_variable_of_prefect_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv("PREFECT_HOME", "")
    monkeypatch.setattr(options, "_located", None)
    options.locate_home(tmp_path / "home")
    options.require_prefect()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "home" / "prefect")
