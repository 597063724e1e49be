"""Whatever lies in the files that convert and import read, they end with one sentence or a sound result."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hostile
import pytest
from gguf.constants import GGUFValueType
from gguf_samples import CONFIG, write_json
from other_models import byte_level_tokenizer, save_model, save_tokenizer, shape
from transformers import Qwen2Config

from registry.errors import UsageError
from tasks.gguf.container import KeyValue, header_bytes
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf, plan_export
from tasks.quant.types import QuantType

_ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sound(tiny_gemma: Path, sentencepiece_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    shutil.copytree(tiny_gemma, folder)
    shutil.copy(sentencepiece_model, folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def gguf(sound: Path) -> Path:
    return export_gguf(sound, sound.parent / "sound.gguf", weights=QuantType.Q8_0).path


def _attack(sound: Path, gguf: Path, first: int, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, hostile.__file__, str(sound), str(gguf), str(first), str(count)],
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout)


def test_dozens_of_hostile_files_end_in_one_sentence_or_a_sound_result(sound: Path, gguf: Path) -> None:
    found = _attack(sound, gguf, 0, 80)
    assert found["wrong"] == []
    assert sum(count for how, count in found["endings"].items() if how.endswith("refused")) > 40


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000, 9_000, 1_000))
def test_thousands_of_hostile_files_end_in_one_sentence_or_a_sound_result(sound: Path, gguf: Path, first: int) -> None:
    assert _attack(sound, gguf, first, 1_000)["wrong"] == []


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "model"
    save_model(Qwen2Config(**shape(num_hidden_layers=1)), folder)
    save_tokenizer(byte_level_tokenizer("qwen2"), folder)
    return folder


@pytest.mark.parametrize(("first", "count"), [(0, 60), pytest.param(1_000, 2_000, marks=pytest.mark.slow)])
def test_so_do_hostile_files_of_a_byte_level_tokenizer(qwen: Path, first: int, count: int) -> None:
    gguf = export_gguf(qwen, qwen.parent / "sound.gguf", weights=QuantType.Q8_0).path
    assert _attack(qwen, gguf, first, count)["wrong"] == []


@contextmanager
def _within(seconds: float, megabytes: int) -> Iterator[None]:
    """Time and memory of the block stay far below what the files in it claim."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


def _folder(sound: Path, tmp_path: Path, without: str) -> Path:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    (folder / without).unlink()
    return folder


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
def test_what_is_no_file_or_never_ends_is_refused_at_once(sound: Path, tmp_path: Path, name: str, kind: str) -> None:
    folder = _folder(sound, tmp_path, name)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).touch()
        os.truncate(folder / name, 1 << 42)
    with _within(10, 300), pytest.raises(UsageError, match=name.replace(".", r"\.")):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.Q8_0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["pipe", "device", "endless", "endless array"])
def test_a_gguf_that_is_no_file_or_never_ends_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in.gguf"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        header = header_bytes([KeyValue("tokens", GGUFValueType.STRING, [])], [])
        if kind == "endless array":
            count_at = header.index(b"tokens") + len("tokens") + 8  # behind the types of the value and of its items
            header = header[:count_at] + (1 << 36).to_bytes(8, "little")
        path.write_bytes(header)
        os.truncate(path, 1 << 42)
    with _within(10, 100), pytest.raises(UsageError, match=r"in\.gguf"):
        import_gguf(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["in.gguf"]


def test_a_checkpoint_of_holes_does_not_decide_how_much_memory_is_taken(sound: Path, tmp_path: Path) -> None:
    folder = _folder(sound, tmp_path, "model.safetensors")
    shape = [2**31 - 1, 1]
    header = json.dumps(
        {"model.embed_tokens.weight": {"dtype": "F16", "shape": shape, "data_offsets": [0, 2 * shape[0]]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(folder / "model.safetensors", 8 + len(header) + 2 * shape[0])
    write_json(folder / "config.json", CONFIG | {"vocab_size": shape[0], "hidden_size": 1})
    with _within(10, 100), pytest.raises(UsageError, match="vocab_size = 2147483647; at most"):
        plan_export(folder, weights=QuantType.F16)


def test_a_piece_of_a_million_letters_is_refused_at_once(sound: Path, tmp_path: Path) -> None:
    folder = _folder(sound, tmp_path, "tokenizer.json")
    content = json.loads((sound / "tokenizer.json").read_text())
    content["model"]["vocab"]["a" * 1_000_000] = CONFIG["vocab_size"] - 1
    write_json(folder / "tokenizer.json", content)
    with _within(10, 100), pytest.raises(UsageError, match="1 to 256 characters"):
        plan_export(folder, weights=QuantType.F16)


@pytest.mark.parametrize("way", ["export", "import"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(sound: Path, gguf: Path, tmp_path: Path, way: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UsageError, match=r"out.* cannot be written: File too large; make room"):
            if way == "export":
                export_gguf(sound, tmp_path / "out.gguf", weights=QuantType.Q8_0)
            else:
                import_gguf(gguf, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
