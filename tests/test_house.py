"""The house: no folder stands outside the import rules, and no file is too long to be read."""

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_LONGEST = 300  # lines
_NO_ROOMS = {"tests", "docs"}  # what tries and describes the house

_LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
_CODE = [
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if Path(name).parts[0] not in _NO_ROOMS
]


def _contract(begin: str) -> dict[str, list[str]]:
    return next(contract for contract in _LINTER["contracts"] if contract["name"].startswith(begin))


def test_every_folder_of_code_is_under_the_import_rules() -> None:
    folders = {path.parts[0] for path in _CODE if len(path.parts) > 1}
    layers = {name.strip() for layer in _contract("Imports run one way")["layers"] for name in layer.split("|")}
    assert folders == set(_LINTER["root_packages"]) == layers


def test_the_rules_for_nouns_reach_all_of_their_code() -> None:
    """They name ``tasks.*.*``, so a noun has code below its folder only, and none in the folder's own module."""
    for contract in ("Prefect", "Nouns stand alone", "Nouns know no phase"):
        assert "tasks.*.*" in _contract(contract)["source_modules"]
    for path in _CODE:
        if path.parts[0] == "tasks" and path.name == "__init__.py" and len(path.parts) == 3:
            body = ast.parse((ROOT / path).read_text()).body
            assert all(isinstance(node, ast.Expr) for node in body), f"{path} holds code; move it to a file beside it"


def test_no_noun_may_know_any_phase() -> None:
    phases = {f"tasks.{path.stem}" for path in _CODE if path.parent == Path("tasks") and path.name != "__init__.py"}
    assert set(_contract("Nouns know no phase")["forbidden_modules"]) == phases


@pytest.mark.parametrize("path", _CODE, ids=str)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= _LONGEST, f"{path} is too long; split it by subject"
