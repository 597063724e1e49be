"""What schemathesis makes of the gateway's description: no answer that it does not tell, no body treated otherwise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import served

EXAMPLES = 100  # of each route, besides those that cover its form
# The last message of the user is the command, which no schema can say: a chat of the right form may have none.
CONFIGURATION = """
[[operations]]
include-name = "POST /v1/chat/completions"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 422]
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_schemathesis_finds_nothing(model: Path, tmp_path: Path) -> None:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    schemathesis = shutil.which("schemathesis", path=places)
    if not schemathesis:
        pytest.skip("schemathesis is not installed; pip install schemathesis, or have it in the PATH")
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    with served(model, tmp_path) as gateway:
        ran = subprocess.run(
            [
                schemathesis, "--config-file", configuration, "run", f"{gateway.address}/openapi.json", "--checks=all",
                f"--max-examples={EXAMPLES}", "--seed=1", "--workers=2", "--request-timeout=60", "--no-color",
                "--continue-on-failure", "--suppress-health-check=all",
            ],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert "No issues found" in ran.stdout
