"""What a GGUF file alone can show of the folder that it was made from: its tensors, its metadata and its length."""

from collections.abc import Iterator

import numpy as np
from gguf.constants import GGUFValueType
from pydantic import BaseModel, ConfigDict

from deployment.runtimes.decoding import GREEDY
from tasks.checkpoints.architectures import Model
from tasks.checkpoints.source import Source
from tasks.gguf.container import GgufFile, KeyValue
from tasks.gguf.metadata import metadata
from tasks.quant.types import QuantType
from tasks.tokenizers.reading import load_tokenizer
from tasks.verification.rounding import error_bound

_CHUNK_WEIGHTS = 1 << 20  # 4 MB of float32 at a time
_OF_THE_EXPORT = "tokenizer.chat_template"  # which may be another than the folder's


class Check(BaseModel):
    """One measured value beside its bound; ``detail`` names the worst case."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    bound: float
    passed: bool
    detail: str = ""

    def finding(self) -> str:
        """``weight error / allowed error is 2.1, bound 1 (blk.2.ffn_up.weight)``"""
        return f"{self.name} is {self.value:.3g}, bound {self.bound:.3g}" + (f" ({self.detail})" if self.detail else "")


def at_most(name: str, value: float, bound: float, detail: str = "") -> Check:
    return Check(name=name, value=value, bound=bound, passed=value <= bound, detail=detail)


def file_checks(file: GgufFile, source: Source) -> Iterator[Check]:
    """No tensor, key or byte is missing, of another value or too much."""
    yield _tensor_names(file, source.model)
    yield _tensor_errors(file, source)
    yield _metadata(file, source)
    yield at_most("bytes after the last tensor", file.trailing_bytes, 0)


def greedy_check(file: GgufFile) -> Check:
    """llama.cpp takes the likeliest token at any temperature, since the file itself says so and nothing else."""
    prefix = "general.sampling."
    found = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    wanted = {"top_k": GREEDY["top_k"]}
    different = sorted(key for key in found.keys() | wanted if found.get(key) != wanted.get(key))
    return at_most("sampling keys that are not greedy", len(different), 0, ", ".join(different))


def _tensor_names(file: GgufFile, model: Model) -> Check:
    expected = {model.gguf_name(name) for name in model.tensor_shapes}
    different = sorted(expected ^ file.tensors.keys())
    return at_most("missing or unknown tensors", len(different), 0, ", ".join(different[:3]))


def _tensor_errors(file: GgufFile, source: Source) -> Check:
    """The worst error of any weight as a share of what its type allows."""
    worst, where = 0.0, ""
    for name in source.model.tensor_shapes:
        if source.model.gguf_name(name) not in file.tensors:
            continue
        tensor, layout = file.tensors[source.model.gguf_name(name)], source.model.layout(name)
        step = layout.rows_at_once(max(1, _CHUNK_WEIGHTS // tensor.row_length))
        for start in range(0, tensor.rows, step):
            rows = start, min(start + step, tensor.rows)
            expected = layout.stored(source.checkpoint.rows(name, *rows))
            error = np.abs(file.rows(tensor.name, *rows) - expected)
            allowed = error_bound(expected, tensor.type)
            share = float(np.max(error / np.maximum(allowed, np.finfo(np.float32).tiny)))
            if not share <= worst:  # NaN is the worst of all
                worst, where = share, tensor.name
    return at_most("weight error / allowed error", worst, 1, where)


def _metadata(file: GgufFile, source: Source) -> Check:
    """What llama.cpp computes with: the architecture's numbers and the vocabulary."""
    vocabulary = load_tokenizer(source.folder, {**source.config, **source.model.fields})
    entries = metadata(
        source.model, vocabulary, weights=QuantType.F32, name="", sampling={}, chat_template=None, provenance={}
    )
    prefixes = (f"{source.model.architecture.gguf}.", "tokenizer.")
    expected = {entry.key: _as_read(entry) for entry in entries if entry.key.startswith(prefixes)}
    found = {key: value for key, value in file.metadata.items() if key.startswith(prefixes) and key != _OF_THE_EXPORT}
    different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    return at_most("metadata keys of other values than the folder's", len(different), 0, ", ".join(different[:3]))


def _as_read(entry: KeyValue) -> object:
    """The value as a file gives it back, which keeps fractions in float32."""
    if entry.type is not GGUFValueType.FLOAT32:
        return entry.value
    return np.asarray(entry.value, np.float32).tolist()
