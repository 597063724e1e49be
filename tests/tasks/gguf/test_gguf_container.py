import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import UsageError
from tasks.gguf.container import GgufFile, KeyValue, header_bytes


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the gguf package wrote."""
    path = tmp_path_factory.mktemp("reference") / "reference.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_string("general.name", "Prüfung ▁")
    writer.add_uint32("number", 7)
    writer.add_float32("real", 1e-6)
    writer.add_bool("switch", True)
    writer.add_array("texts", ["a", "ü", ""])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_tensor("matrix", np.arange(64, dtype=np.float32).reshape(2, 32))
    quantised = gguf.quants.quantize(np.ones((3, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("quantised", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_the_gguf_package_reads_back(reference: Path) -> None:
    with GgufFile(reference) as file:
        assert file.metadata == {
            "general.architecture": "gemma3",
            "general.name": "Prüfung ▁",
            "number": 7,
            "real": pytest.approx(1e-6),
            "switch": True,
            "texts": ["a", "ü", ""],
            "numbers": [1, -2, 3],
        }
        assert file.types["numbers"] is GGUFValueType.INT32
        np.testing.assert_array_equal(file.rows("matrix", 1, 2), np.arange(32, 64, dtype=np.float32)[None])
        np.testing.assert_allclose(file.rows("quantised", 0, 3), np.ones((3, 64)), rtol=1e-3)
        np.testing.assert_array_equal(file.rows("vector", 0, 1)[0], np.arange(5))


@pytest.mark.parametrize("type_", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_types_that_are_only_read_come_out_by_rows_as_gguf_py_has_them(tmp_path: Path, type_: str) -> None:
    quant = gguf.GGMLQuantizationType[type_]
    block, block_bytes = gguf.GGML_QUANT_SIZES[quant]
    random_ = np.random.default_rng(1)
    # 0x2e in every byte: any place of a scale in the block is then an ordinary float16
    blocks = np.full((7, 512 // block * block_bytes), 0x2E, dtype=np.uint8)
    blocks[:, ::3] = random_.integers(0x20, 0x40, blocks[:, ::3].shape)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "gemma3")
    writer.add_tensor("matrix", blocks, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(blocks, quant)
    assert np.isfinite(expected).all() and expected.any()
    with GgufFile(tmp_path / "k.gguf") as file:
        assert file.tensors["matrix"].shape == (7, 512)
        for start, stop in ((0, 7), (0, 3), (3, 7), (6, 7)):
            np.testing.assert_array_equal(file.rows("matrix", start, stop), expected[start:stop])


def test_a_header_of_ours_is_read_by_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "ours.gguf"
    entries = [
        KeyValue("general.architecture", GGUFValueType.STRING, "gemma3"),
        KeyValue("number", GGUFValueType.UINT32, 2**32 - 1),
        KeyValue("texts", GGUFValueType.STRING, ["ü", ""]),
        KeyValue("scores", GGUFValueType.FLOAT32, [-0.0, -1.5]),
    ]
    header = header_bytes(entries, [("matrix", (2, 16), gguf.GGMLQuantizationType.F32, 0)])
    assert len(header) % 32 == 0
    path.write_bytes(header + np.arange(32, dtype=np.float32).tobytes())

    reader = gguf.GGUFReader(path)
    read = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert read == {entry.key: entry.value for entry in entries}
    np.testing.assert_array_equal(reader.tensors[0].data, np.arange(32, dtype=np.float32).reshape(2, 16))


def test_every_truncation_is_refused_in_one_sentence(reference: Path, tmp_path: Path) -> None:
    content = reference.read_bytes()
    with GgufFile(reference) as file:
        end = max(tensor.offset + tensor.nbytes for tensor in file.tensors.values())
    cut = tmp_path / "cut.gguf"
    for length in [*range(400), *range(400, end, 37)]:
        cut.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"cut\.gguf"):
            GgufFile(cut)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 8))
def test_flipped_bytes_are_read_or_refused_but_never_crash(
    reference: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, flips: int
) -> None:
    content = bytearray(reference.read_bytes())
    chosen = random.Random(seed)
    for _ in range(flips):
        content[chosen.randrange(min(len(content), 600))] = chosen.randrange(256)
    path = tmp_path_factory.mktemp("flipped") / "flipped.gguf"
    path.write_bytes(content)
    try:
        with GgufFile(path) as file:
            for tensor in file.tensors.values():
                file.rows(tensor.name, 0, tensor.rows)
    except UsageError as error:
        assert str(path) in str(error)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_garbage_behind_the_magic_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "garbage.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 8 + content)
    with pytest.raises(UsageError):
        GgufFile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        GgufFile(tmp_path / "none.gguf")
