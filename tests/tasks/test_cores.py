"""The cores that a process may use, not those that the machine has."""

import subprocess
import sys

import pytest

from registry.cores import usable_cores


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="taskset is Linux's")
def test_a_pinned_process_has_the_cores_that_it_is_pinned_to() -> None:
    code = "from registry.cores import usable_cores; print(usable_cores())"
    found = subprocess.run(
        ["taskset", "-c", "0", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "1"
    assert usable_cores() >= 1
