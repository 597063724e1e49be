"""A command starts without the libraries that it has no use for; they take seconds to import."""

import subprocess
import sys

import pytest

_SHOW = """
import sys
from flows.cli import main as cli
sys.argv = ["gemmill", *{arguments}]
try:
    cli.main()
finally:
    print(*sorted(set(sys.modules) & set({libraries})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "libraries"),
    [
        (["--help"], ["mlflow", "numpy", "prefect", "pydantic", "torch"]),
        (["inspect", "none"], ["mlflow", "prefect", "transformers.modeling_utils"]),
    ],
    ids=["help", "inspect"],
)
def test_a_command_leaves_alone_what_it_does_not_need(arguments: list[str], libraries: list[str]) -> None:
    code = _SHOW.format(arguments=arguments, libraries=libraries)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 2), done.stderr
    assert done.stderr.splitlines()[-1] == ""
