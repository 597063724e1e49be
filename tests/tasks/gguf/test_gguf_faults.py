"""Files with one fault each: the check that names it finds it, and no such file ever gets its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGUFValueType

from registry.errors import VerificationFailed
from tasks.gguf.container import GgufFile, KeyValue, header_bytes
from tasks.gguf.writer import ExportReport, export_gguf
from tasks.quant.types import QuantType
from tasks.verification import proven
from tasks.verification.proven import export_proven

_METADATA = "metadata keys of other values than the folder's"
_WEIGHTS = "weight error / allowed error"


class _Parts:
    """All of a GGUF file, to be changed and written again."""

    def __init__(self, path: Path) -> None:
        with GgufFile(path) as file:
            self.keys = {key: KeyValue(key, file.types[key], value) for key, value in file.metadata.items()}
            self.tensors = {
                name: (tensor.shape, tensor.type, file.raw_rows(name, 0, tensor.rows).copy())
                for name, tensor in file.tensors.items()
            }

    def set(self, key: str, value: Any) -> None:
        self.keys[key] = KeyValue(key, self.keys[key].type, value)

    def write(self, path: Path) -> None:
        headers, data = [], b""
        for name, (shape, type_, raw) in self.tensors.items():
            headers.append((name, shape, type_, len(data)))
            data += raw.tobytes()
            data += bytes(-len(data) % 32)
        path.write_bytes(header_bytes(self.keys.values(), headers) + data)


def _flipped_bit(parts: _Parts) -> None:
    parts.tensors["blk.2.ffn_up.weight"][2][7, 3] ^= 0x40  # of a code in the first block


def _norm_without_its_one(parts: _Parts) -> None:
    parts.tensors["blk.0.attn_norm.weight"][2].view("<f4")[...] -= 1


def _missing_tensor(parts: _Parts) -> None:
    del parts.tensors["blk.3.ffn_down.weight"]


def _rope_base(parts: _Parts) -> None:
    parts.set("gemma3.rope.freq_base", 10_000.0)


def _sliding_pattern(parts: _Parts) -> None:
    key = "gemma3.attention.sliding_window_pattern"
    parts.keys[key] = KeyValue(key, GGUFValueType.UINT32, 2)


def _end_of_sequence(parts: _Parts) -> None:
    parts.set("tokenizer.ggml.eos_token_id", 0)


def _swapped_tokens(parts: _Parts) -> None:
    tokens = parts.keys["tokenizer.ggml.tokens"].value
    one, other = tokens.index("P"), tokens.index("l")
    tokens[one], tokens[other] = tokens[other], tokens[one]


def _two_bos(parts: _Parts) -> None:
    key = "tokenizer.chat_template"
    parts.set(key, "{{ bos_token }}" + parts.keys[key].value)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (_flipped_bit, rf"{_WEIGHTS} is .* \(blk\.2\.ffn_up\.weight\)"),
        (_norm_without_its_one, rf"{_WEIGHTS} is .* \(blk\.0\.attn_norm\.weight\)"),
        (_missing_tensor, r"missing or unknown tensors is 1, bound 0 \(blk\.3\.ffn_down\.weight\)"),
        (_rope_base, rf"{_METADATA} is 1, bound 0 \(gemma3\.rope\.freq_base\)"),
        (_sliding_pattern, rf"{_METADATA} is 1, bound 0 \(gemma3\.attention\.sliding_window_pattern\)"),
        (_end_of_sequence, rf"{_METADATA} is 1, bound 0 \(tokenizer\.ggml\.eos_token_id\)"),
        (_swapped_tokens, rf"{_METADATA} is 1, bound 0 \(tokenizer\.ggml\.tokens\).*; token parity"),
        (_two_bos, r"chat template parity: texts with other tokens is .*; BOS tokens in a prompt is 2, bound 1"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_fault_is_named_and_leaves_no_file(
    tiny_gemma: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[_Parts], None],
    named: str,
) -> None:
    _break_exports(monkeypatch, lambda path: _rewritten(path, fault))
    with pytest.raises(VerificationFailed, match=named) as error:
        export_proven(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.Q8_0)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_bytes_after_the_last_tensor_are_found_and_the_file_before_stays(
    tiny_gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.gguf").write_bytes(b"before")
    _break_exports(monkeypatch, lambda path: path.write_bytes(path.read_bytes() + b"more"))
    with pytest.raises(VerificationFailed, match="bytes after the last tensor is 4, bound 0"):
        export_proven(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.Q8_0)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_sound_file_gets_its_name_with_what_proves_it(tiny_gemma: Path, tmp_path: Path) -> None:
    report = export_proven(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.Q4_0)
    assert report.verification.passed
    assert report.path == tmp_path / "out.gguf"
    assert list(tmp_path.iterdir()) == [report.path]


def _break_exports(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]) -> None:
    def export(model_dir: Path, out: Path, **types: Any) -> ExportReport:
        report = export_gguf(model_dir, out, **types)
        damage(out)
        return report

    monkeypatch.setattr(proven, "export_gguf", export)


def _rewritten(path: Path, fault: Callable[[_Parts], None]) -> None:
    parts = _Parts(path)
    fault(parts)
    parts.write(path)
