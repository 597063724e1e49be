"""How commands end, and what they say of themselves.

Most commands run in this process, where torch and mlflow are imported once; flows run in processes of their own, as
a Prefect flow logs otherwise.
"""

import json
from importlib import metadata
from pathlib import Path

import pytest
import typer
from command_line import ROWS, Gemmill, gemmill_process

from data_checks.sample import SAMPLE_DIR
from flows.cli import main as cli
from flows.settings import PROFILES_FOLDER

_NOBODY = "127.0.0.1:9"  # the discard port, where no server listens
_COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
# What users and CI rely on, whatever the code is called.
_PROMISED = {
    "ingest": ("--summary",),
    "retrain": ("--profile", "--data", "--home", "--summary"),
    "inspect": ("--baseline", "--json", "--html"),
    "convert": ("--type", "--plan", "--data", "--budget", "--json", "--html"),
    "prune-vocab": ("--corpus", "--words", "--base", "--json"),
    "evaluate": ("--data", "--json", "--html"),
    "compare": ("--data",),
    "deploy": ("--alias", "--device"),
}


def test_ingest_stores_the_records_that_make_retraining_due(
    gemmill: Gemmill, data: Path, prefect_server: str, tmp_path: Path
) -> None:
    home, ingested, due, profile = (tmp_path / name for name in ("home", "ingested.json", "due.json", "profile.toml"))
    shipped = (PROFILES_FOLDER / "tiny.toml").read_text().splitlines()
    lines = [f"minimum_rows = {ROWS}" if line.startswith("minimum_rows") else line for line in shipped]
    profile.write_text("\n".join(lines))
    ran = gemmill_process(home, "ingest", data, "--summary", ingested, PREFECT_API_URL=prefect_server)
    assert ran.code == 0, ran
    assert json.loads(ingested.read_text()) == {
        "dataset": "manufacturing-audit",
        "source": str(data),
        "read": ROWS,
        "new": ROWS,
        "known": 0,
        "joined": 0,
        "conflicts": [],
        "rows": {"train": 0, "validation": 0, "test": ROWS},
    }
    ran = gemmill("due", "--home", home, "--profile", profile, "--summary", due)
    assert ran.code == 0, ran
    assert ran.out.startswith("Retraining on manufacturing-audit is due: 4 new rows")
    counts = {"new_rows": ROWS, "minimum_rows": ROWS}
    assert json.loads(due.read_text()) == {"due": True, **counts, "since_snapshot": None}


def test_the_version_is_told(tmp_path: Path) -> None:
    ran = gemmill_process(tmp_path, "--version")
    assert (ran.code, ran.out.strip()) == (0, f"gemmill {metadata.version('gemmill')}")


def test_ingest_stores_nothing_of_what_it_refuses(
    gemmill: Gemmill, bad_data: Path, prefect_server: str, tmp_path: Path
) -> None:
    bad = gemmill_process(tmp_path, "ingest", bad_data, PREFECT_API_URL=prefect_server)
    bad.assert_refused(4, "first: bad.jsonl line 2")
    gemmill("due", "--home", tmp_path).assert_refused(2, "the audit store is empty")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "{tmp}/none"], "is no model"),
        (["inspect", "{data}/test.jsonl"], "is not a sound GGUF file"),
        (["inspect", "{tmp}/none", "--json", "{data}"], "is a folder where a file is to be written"),
        (["repair-norms", "{tmp}/none", "{tmp}/out"], "is no model"),
        (["repair-norms", "{tmp}/none", "{tmp}/out", "--json", "{data}"], "is a folder where a file is to be written"),
        (["convert", "{model}", "{tmp}/out", "--type", "q9"], "'q9' is no type that is written; take one of f32, f16"),
        (["convert", "{tmp}/none", "{tmp}/out", "--type", "q8_0"], "none/config.json cannot be read"),
        (["convert", "{tmp}/none.gguf", "{tmp}/out"], "none.gguf cannot be read"),
        (["convert", "{gguf}", "{tmp}/out", "--type", "q8_0"], "keeps its types; give no option but --json"),
        (["convert", "{gguf}", "{tmp}/out", "--no-verify"], "keeps its types; give no option but --json"),
        (["convert", "{gguf}", "{tmp}/out", "--budget", ""], "keeps its types; give no option but --json"),
        (["convert", "{model}", "{tmp}/out"], "Missing option '--type'"),
        (["convert", "{model}", "{tmp}/out", "--type", "auto"], "name labelled records with --data"),
        (["convert", "{model}", "{tmp}/out", "--type", "auto", "--base", "x"], "--type auto is for whole models"),
        (["convert", "{model}", "{tmp}/o", "--type", "auto", "--plan", "--budget", "7TB"], "'7TB' is no size; write"),
        (["convert", "{model}", "{tmp}/o", "--type", "auto", "--plan", "--budget", ""], "'' is no size; write"),
        (["convert", "{model}", "{tmp}/out", "--type", "q8_0", "--budget", ""], "are for --type auto; omit them"),
        (["convert", "{model}", "{tmp}/out", "--type", "q8_0", "--data", "{data}"], "are for --type auto; omit them"),
        (["prune-vocab", "{model}", "{data}", "--corpus", "{data}"], "exists; name another folder or delete it"),
        (["prune-vocab", "{model}", "{tmp}/out", "--corpus", "{data}"], "rows of the test split only"),
        (["prune-vocab", "{tmp}/none", "{tmp}/out", "--corpus", str(SAMPLE_DIR)], "none is no Hugging Face folder"),
        (
            ["prune-vocab", "{gguf}", "{tmp}/out", "--corpus", str(SAMPLE_DIR)],
            "is no Hugging Face folder of a whole model",
        ),
        (["import", "{tmp}/none.gguf", "{tmp}/out"], "none.gguf cannot be read"),
        (["import", "{data}/test.jsonl", "{tmp}/out"], "is not a sound GGUF file"),
        (["import", "{gguf}", "{data}"], "is not an empty folder"),
        (["evaluate", "{gguf}", "--data", "{tmp}/none.jsonl"], "none.jsonl cannot be read"),
        (["evaluate", "{gguf}", "--data", "{model}"], "test.jsonl cannot be read"),
        (["evaluate", "{gguf}", "--data", "{data}", "--labels", "{tmp}/none.toml"], "none.toml cannot be read"),
        (["evaluate", "{tmp}/none.gguf", "--data", "{data}"], "none.gguf is not a file"),
        (["evaluate", "{tmp}/none", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["evaluate", "models:/plant", "--data", "{data}"], "write models:/NAME@ALIAS"),
        (["evaluate", "models:/plant@champion", "--data", "{data}"], "no version with the alias 'champion'"),
        (["compare", "{tmp}/none", "{gguf}", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["compare", "{gguf}", "{tmp}/none", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["promote", "1"], "has no version 1; gemmill retrain registers one"),
        (["rollback"], "has no previous champion to roll back to"),
        (["due"], "the audit store is empty; ingest audit data first"),
    ],
)
def test_bad_usage_exits_with_2(
    arguments: list[str], reason: str, gemmill: Gemmill, data: Path, gguf: Path, tiny_model_dir: Path, empty_home: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GEMMILL_HOME", str(empty_home))
    ran = gemmill(
        *(argument.format(data=data, gguf=gguf, model=tiny_model_dir, tmp=tmp_path) for argument in arguments)
    )
    ran.assert_refused(2, reason)
    assert "\n" not in ran.err.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["inspect"], "Missing argument"),
        (["evaluate", "model"], "Missing option '--data'"),
        (["prune-vocab", "model", "out"], "Missing option '--corpus'"),
        (["evaluate", "model", "--data", "x", "--threads", "-1"], "Invalid value for '--threads'"),
        (["promote", "newest"], "Invalid value"),
        (["rollback", "--force"], "No such option"),
    ],
)
def test_a_command_that_cannot_be_parsed_exits_with_2(arguments: list[str], reason: str, gemmill: Gemmill) -> None:
    ran = gemmill(*arguments)
    assert ran.code == 2, ran
    assert reason in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [["evaluate", "{gguf}"], ["compare", "{gguf}", "{gguf}"]])
def test_a_bad_data_file_exits_with_4(arguments: list[str], gemmill: Gemmill, gguf: Path, bad_data: Path) -> None:
    ran = gemmill(*(argument.format(gguf=gguf) for argument in arguments), "--data", bad_data)
    ran.assert_refused(4, "1 line of bad.jsonl refused")
    assert "Invalid JSON" in ran.err


def test_an_intent_outside_the_label_set_exits_with_4(gemmill: Gemmill, gguf: Path, data: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"command": "SG-1 dances", "response": {"intent": "dance", "entities": {}}}\n')
    ran = gemmill("evaluate", gguf, "--data", strange, "--labels", data / "labels.toml")
    ran.assert_refused(4, "unknown intent 'dance'")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["evaluate", "ollama:plant", "--data", "{data}"], f"No Ollama answers at http://{_NOBODY}"),
        (["evaluate", f"http://{_NOBODY}", "--data", "{data}"], f"No server answers at http://{_NOBODY}"),
        (["compare", "ollama:plant", "{gguf}", "--data", "{data}"], f"No Ollama answers at http://{_NOBODY}"),
        (["inspect", "plant-7/gemma"], "the hub is out of reach"),
        (["promote", "1"], f"No MLflow server answers at http://{_NOBODY}"),
    ],
)
def test_a_service_out_of_reach_exits_with_5(
    arguments: list[str], reason: str, gemmill: Gemmill, data: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", _NOBODY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{_NOBODY}")
    ran = gemmill(*(argument.format(data=data, gguf=gguf) for argument in arguments))
    ran.assert_refused(5, reason)
    assert "\n" not in ran.err.strip()


def test_the_exit_code_reaches_the_shell(bad_data: Path, gguf: Path, tmp_path: Path) -> None:
    gemmill_process(tmp_path, "evaluate", gguf, "--data", bad_data).assert_refused(4, "bad.jsonl line 2")


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_help_names_every_option_of_a_command(command: str, gemmill: Gemmill) -> None:
    ran = gemmill(command, "--help")
    assert ran.code == 0, ran
    options = [name for option in _COMMANDS[command].params for name in option.opts if name.startswith("-")]
    assert not [name for name in (*options, *_PROMISED.get(command, ())) if name not in ran.out.split()]


def test_help_names_every_command(gemmill: Gemmill) -> None:
    ran = gemmill("--help")
    assert ran.code == 0, ran
    assert _PROMISED.keys() <= set(_COMMANDS)
    assert not [command for command in _COMMANDS if command not in ran.out.split()]
