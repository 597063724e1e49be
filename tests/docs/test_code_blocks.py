"""The commands of docs/start and docs/your-data, run as they are written, in a checkout of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BASH = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository, without any state, and with the environment that runs the tests as its ``.venv``."""
    folder = tmp_path_factory.mktemp("checkout") / "gemmill"
    left_out = shutil.ignore_patterns(".git", ".venv", ".gemmill", "build", "__pycache__", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run_blocks(page: str, checkout: Path, tmp_path: Path) -> str:
    """The output of all blocks of a page, run in turn by one shell that stops at the first command that fails.

    make is the real one, told that its installation is done.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    make = tools / "make"
    make.write_text(f'#!/bin/sh\nexec {shutil.which("make")} --assume-old=.venv/.installed-run "$@"\n')
    make.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GEMMILL_", "PREFECT_"))}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    blocks = _BASH.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    ran = subprocess.run(
        ["bash", "-e", "-c", "\n".join(blocks)], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_your_data(checkout: Path, tmp_path: Path) -> None:
    said = run_blocks("your-data", checkout, tmp_path)
    assert said.count("exit code 4") == 2
    assert "bad.jsonl" in said
    assert "rows of train (wanted 100 or more" in said
    assert "Retraining on plant-7 is not due: 5 new rows" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_start(checkout: Path, tmp_path: Path) -> None:
    said = run_blocks("start", checkout, tmp_path)
    assert "gemma3-manufacturing version 1 is registered as challenger" in said
    assert "gemma3-manufacturing version 1 is champion" in said
    assert (checkout / "summary.json").is_file()
