"""The order of a file is that of llama.cpp's own rewriting, which Ollama runs on what it is given.

``llama_cpp_rewriting.json`` holds what ``llama-quantize IN OUT COPY`` made of files whose keys and tensors lay in
upstream's order; where upstream's environment is installed, it is asked again.
"""

import json
import random
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFValueType
from other_models import byte_level_tokenizer, save_model, save_tokenizer, shape
from transformers import LlamaConfig, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from registry.errors import UsageError, VerificationFailed
from registry.files import file_sha256
from tasks.gguf import reordering
from tasks.gguf.container import GgufFile, KeyValue, header_bytes
from tasks.gguf.order import LAST_KEYS, is_in_order, tensor_order
from tasks.gguf.reordering import reorder_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tests.benchmarks.gguf_difference import difference
from tests.benchmarks.upstream import UPSTREAM, is_installed, rewrite_command

RECORDED = json.loads(Path(__file__).with_name("llama_cpp_rewriting.json").read_text(encoding="utf-8"))
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama, untied, 12 layers": LlamaConfig(**shape(num_hidden_layers=12)),
    "qwen2": Qwen2Config(**shape()),
    "qwen3": Qwen3Config(**shape(head_dim=32, tie_word_embeddings=True)),
    "phi3": Phi3Config(**shape(sliding_window=600)),
}
PROVENANCE = {"general.name": "plant", "general.license": "gemma", "gemmill.model_sha256": "ab"}
needs_upstream = pytest.mark.skipif(
    not is_installed(UPSTREAM), reason="llama.cpp's quantiser is not installed: make .venv/upstream/.installed"
)


@pytest.fixture(scope="module", params=["gemma3", *CONFIGS])
def model(request: pytest.FixtureRequest) -> str:
    """The name of a model in the recording; :func:`exported` writes it."""
    return request.param


@pytest.fixture(scope="module")
def exported(model: str, tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("order")
    folder = tiny_gemma
    if model in CONFIGS:
        folder = place / "model"
        save_model(CONFIGS[model], folder)
        save_tokenizer(byte_level_tokenizer("gpt-2"), folder)
    return export_gguf(folder, place / "ours.gguf", weights=QuantType.Q8_0, provenance=PROVENANCE).path


def shuffled(source: Path, out: Path, *, without: tuple[str, ...] = (), alignment: int | None = None) -> Path:
    """``source`` with its tensors anywhere, and ``LAST_KEYS`` in the midst of the others, as converters write them."""
    with GgufFile(source) as file:
        first = [KeyValue("general.alignment", GGUFValueType.UINT32, alignment)] if alignment else []
        entries = [KeyValue(key, file.types[key], file.metadata[key]) for key in file.metadata if key not in without]
        last = [entry for entry in entries if entry.key in LAST_KEYS]
        rest = [entry for entry in entries if entry.key not in LAST_KEYS]
        names = sorted(file.tensors)
        random.Random(0).shuffle(names)
        headers, data, align = [], b"", alignment or 32
        for tensor in (file.tensors[name] for name in names):
            headers.append((tensor.name, tensor.shape, tensor.type, len(data)))
            data += file.raw_rows(tensor.name, 0, tensor.rows).tobytes()
            data += bytes(-len(data) % align)
    header = header_bytes([*first, *rest[:9], *last, *rest[9:]], headers)
    out.write_bytes(header + bytes(-len(header) % align) + data)
    return out


def _rewritten(source: Path, out: Path) -> Path:
    done = subprocess.run(rewrite_command(UPSTREAM, source, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_a_file_lies_in_the_order_that_llama_cpp_gave_it(model: str, exported: Path) -> None:
    with GgufFile(exported) as file:
        assert list(file.metadata) == RECORDED[model]["keys"]
        assert list(file.tensors) == RECORDED[model]["tensors"]
        assert is_in_order(file)


@needs_upstream
def test_llama_cpps_rewriting_is_the_recorded_one_and_leaves_our_file_as_it_is(
    model: str, exported: Path, tmp_path: Path
) -> None:
    assert _rewritten(exported, tmp_path / "copy.gguf").read_bytes() == exported.read_bytes()
    other = _rewritten(shuffled(exported, tmp_path / "shuffled.gguf"), tmp_path / "again.gguf")
    assert other.read_bytes() == exported.read_bytes()
    with GgufFile(other) as file:
        assert {"keys": list(file.metadata), "tensors": list(file.tensors)} == RECORDED[model]


def test_a_file_in_another_order_becomes_the_one_that_is_written_today(exported: Path, tmp_path: Path) -> None:
    other, out = shuffled(exported, tmp_path / "other.gguf"), tmp_path / "out.gguf"
    with GgufFile(other) as file:
        assert not is_in_order(file)
    report = reorder_gguf(other, out)
    assert out.read_bytes() == exported.read_bytes()
    assert (report.sha256, report.bytes) == (file_sha256(exported), exported.stat().st_size)
    assert reorder_gguf(other, other).sha256 == report.sha256


def test_tensors_go_by_the_number_of_their_layer_and_then_by_the_bytes_of_their_names() -> None:
    names = ["token_embd.weight", "blk.10.a", "blk.2.b", "blk.2.B", "blk.x", "output.weight", "blk.2.ü", "Z"]
    expected = ["Z", "blk.x", "output.weight", "token_embd.weight", "blk.2.B", "blk.2.b", "blk.2.ü", "blk.10.a"]
    assert sorted(names, key=tensor_order) == expected


def test_a_file_of_another_alignment_and_without_a_file_type_gets_what_llama_cpp_asks_for(
    exported: Path, tmp_path: Path
) -> None:
    other = shuffled(exported, tmp_path / "other.gguf", without=LAST_KEYS, alignment=64)
    reorder_gguf(other, tmp_path / "out.gguf")
    with GgufFile(tmp_path / "out.gguf") as file:
        assert is_in_order(file)
        assert "general.alignment" not in file.metadata
    found = difference(exported, tmp_path / "out.gguf")
    assert found.keys.keys() <= {"general.file_type"}  # llama.cpp's guess, marked as one
    assert found.equal_tensors == found.tensors


def test_values_of_every_kind_stay_as_they_are(tmp_path: Path) -> None:
    entries = [
        KeyValue("general.file_type", GGUFValueType.UINT32, 0),
        KeyValue("x.i8", GGUFValueType.INT8, -3),
        KeyValue("x.f64", GGUFValueType.FLOAT64, 0.1),
        KeyValue("x.nan", GGUFValueType.FLOAT32, float("nan")),
        KeyValue("x.none", GGUFValueType.STRING, []),
        KeyValue("x.switches", GGUFValueType.BOOL, [True, False]),
        KeyValue("x.text", GGUFValueType.STRING, ["ü", ""]),
        KeyValue("general.quantization_version", GGUFValueType.UINT32, 2),
    ]
    path = tmp_path / "in.gguf"
    path.write_bytes(header_bytes(entries, [("w", (32,), gguf.GGMLQuantizationType.F32, 0)]) + bytes(128))
    reorder_gguf(path, tmp_path / "out.gguf")
    moved = [*entries[1:], entries[0]]
    expected = header_bytes(moved, [("w", (32,), gguf.GGMLQuantizationType.F32, 0)]) + bytes(128)
    assert (tmp_path / "out.gguf").read_bytes() == expected


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (KeyValue("general.type", GGUFValueType.STRING, "adapter"), "is an adapter"),
        (KeyValue("split.count", GGUFValueType.UINT16, 3), "is one of 3 files of a model"),
    ],
)
def test_what_llama_cpp_would_not_rewrite_as_one_model_is_refused(entry: KeyValue, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(header_bytes([entry], [("w", (32,), gguf.GGMLQuantizationType.F32, 0)]) + bytes(128))
    with pytest.raises(UsageError, match=reason):
        reorder_gguf(path, tmp_path / "out.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["in.gguf"]


def test_a_byte_that_changes_on_its_way_to_the_disk_is_noticed(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = GgufFile.raw_rows

    def wrong_when_read_back(file: GgufFile, name: str, start: int, stop: int) -> np.ndarray:
        return rows(file, name, start, stop) ^ (file.path != exported)

    monkeypatch.setattr(reordering.GgufFile, "raw_rows", wrong_when_read_back)
    with pytest.raises(VerificationFailed, match="would not be the model"):
        reorder_gguf(exported, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
