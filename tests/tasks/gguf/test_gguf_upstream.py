"""Files of a tiny model beside those that llama.cpp's own converter and quantiser write of it."""

import subprocess
from pathlib import Path

import pytest

from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tests.benchmarks.gguf_difference import difference
from tests.benchmarks.upstream import UPSTREAM, convert_command, is_installed, quantize_command, upstream_folder

pytestmark = pytest.mark.skipif(
    not is_installed(UPSTREAM), reason="llama.cpp's converter is not installed: make .venv/upstream/.installed"
)
_FROM_ITS_FOLDER = {"general.name", "general.basename"}  # upstream takes a folder's name apart


@pytest.fixture(scope="module")
def theirs(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return upstream_folder(tiny_gemma, tmp_path_factory.mktemp("upstream") / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("weights", [QuantType.F32, QuantType.F16, QuantType.BF16, QuantType.Q8_0])
def test_upstreams_converter_writes_the_same_tensors_and_keys(
    tiny_gemma: Path, theirs: Path, tmp_path: Path, weights: QuantType
) -> None:
    ours, reference = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    export_gguf(tiny_gemma, ours, weights=weights)
    _run(convert_command(UPSTREAM, theirs, reference, weights))
    found = difference(ours, reference)
    assert found.equal_tensors == found.tensors
    assert found.keys.keys() <= _FROM_ITS_FOLDER


@pytest.mark.parametrize("weights", [QuantType.Q4_0, QuantType.Q4_1, QuantType.Q5_0, QuantType.Q5_1])
def test_llama_quantize_writes_the_same_tensors_and_keys(tiny_gemma: Path, tmp_path: Path, weights: QuantType) -> None:
    whole, reference, ours = (tmp_path / f"{name}.gguf" for name in ("whole", "theirs", "ours"))
    export_gguf(tiny_gemma, whole, weights=QuantType.F32)
    _run(quantize_command(UPSTREAM, whole, reference, weights, 1))
    export_gguf(tiny_gemma, ours, weights=weights)
    found = difference(ours, reference)
    assert found.equal_tensors == found.tensors
    assert not found.keys


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
