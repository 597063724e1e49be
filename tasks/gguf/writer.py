"""A Hugging Face folder becomes a GGUF file, streamed: rows in, quantised by threads, out in order.

Nothing lies under the final name before the whole file does.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import Metadata
from pydantic import BaseModel, ConfigDict
from yaml import YAMLError

from registry.cores import usable_cores
from registry.errors import UsageError
from registry.files import atomic_file
from tasks.checkpoints.base_layers import FILE_KEY, as_text, base_layers
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.files import read_json, read_text
from tasks.checkpoints.source import Source, open_source
from tasks.gguf.container import ALIGNMENT, header_bytes
from tasks.gguf.encode import encode
from tasks.gguf.metadata import LICENCE_KEYS, metadata
from tasks.gguf.plan import TensorPlan, ggml_type, plan_types
from tasks.quant.types import QuantType
from tasks.tokenizers.reading import load_tokenizer

_CHUNK_WEIGHTS = 1 << 19  # 2 MB of float32; with less, threads spend their time in handing over the interpreter


class ExportReport(BaseModel):
    """What was written; ``types`` counts the tensors of each type."""

    model_config = ConfigDict(frozen=True)

    path: Path
    sha256: str
    bytes: int
    tensors: int
    types: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Everything of the file but the weights: its header, and each tensor in order."""

    tensors: tuple[TensorPlan, ...]
    header: bytes

    @property
    def file_bytes(self) -> int:
        """The size that the file will have."""
        return len(self.header) + sum(_aligned(plan.nbytes) for plan in self.tensors)

    @property
    def weights(self) -> int:
        return sum(prod(plan.shape) for plan in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(plan.nbytes for plan in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / self.weights

    def to_json(self) -> str:
        """File size, totals and, for each tensor, name, shape, type, bits per weight and bytes."""
        tensors = [
            {
                "name": plan.gguf_name,
                "shape": plan.shape,
                "type": plan.type,
                "bits_per_weight": plan.bits_per_weight,
                "bytes": plan.nbytes,
            }
            for plan in self.tensors
        ]
        totals = {
            "bytes": self.file_bytes,
            "tensor_bytes": self.tensor_bytes,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
        }
        return json.dumps({**totals, "tensors": tensors}, indent=1) + "\n"


def plan_export(
    model_dir: Path,
    *,
    weights: QuantType,
    embedding: QuantType | None = None,
    provenance: Mapping[str, str] | None = None,
    chat_template: str | None = None,
) -> ExportPlan:
    """What :func:`export_gguf` with the same arguments will write; no weight is read for it."""
    with open_source(model_dir) as source:
        return _plan(source, weights, embedding, provenance or {}, chat_template)


def export_gguf(
    model_dir: Path,
    out: Path,
    *,
    weights: QuantType,
    embedding: QuantType | None = None,
    provenance: Mapping[str, str] | None = None,
    chat_template: str | None = None,
) -> ExportReport:
    """Write the model in ``model_dir`` as ``out``.

    Args:
        model_dir: config.json, safetensors (single or sharded), tokenizer.json or tokenizer.model; of a multimodal
            model the text part is written.
        out: replaced once the new file is whole.
        weights: the type of all matrices but the embedding.
        embedding: the type of embedding and output matrix; None takes what llama-quantize does.
        provenance: ``general.*`` and ``gemmill.*`` texts to store, such as general.name or a snapshot digest; without
            general.license the licence that the folder's model card names.
        chat_template: Jinja; None takes the folder's own.

    Raises:
        UsageError: the folder is unsound, of another architecture, or computes what llama.cpp would not.
    """
    with open_source(model_dir) as source:
        plan = _plan(source, weights, embedding, provenance or {}, chat_template)
        return write_export(out, plan, source.checkpoint)


def write_export(out: Path, plan: ExportPlan, checkpoint: Checkpoint) -> ExportReport:
    """Write what was planned for the tensors of ``checkpoint``; ``out`` is replaced once the new file is whole."""
    digest = hashlib.sha256(plan.header)
    with atomic_file(out) as temporary, temporary.open("wb") as stream:
        stream.write(plan.header)
        for chunk in _encoded(checkpoint, plan.tensors):
            digest.update(chunk)
            stream.write(chunk)
    return ExportReport(
        path=out,
        sha256=digest.hexdigest(),
        bytes=plan.file_bytes,
        tensors=len(plan.tensors),
        types=dict(Counter(str(tensor.type) for tensor in plan.tensors)),
    )


def _plan(
    source: Source,
    weights: QuantType,
    embedding: QuantType | None,
    provenance: Mapping[str, str],
    chat_template: str | None,
) -> ExportPlan:
    folder, model = source.folder, source.model
    if LICENCE_KEYS["license"] not in provenance:
        provenance = {**provenance, **_card_licence(folder)}
    if layers := base_layers(source.config):
        provenance = {**provenance, FILE_KEY: as_text(layers)}
    plans = tuple(plan_types(model, weights=weights, embedding=embedding).values())
    entries = metadata(
        model,
        load_tokenizer(folder, {**source.config, **model.fields}),
        weights=weights,
        name=provenance.get("general.name", folder.resolve().name),
        sampling=_optional_json(folder / "generation_config.json"),
        chat_template=chat_template or _chat_template(folder),
        provenance=provenance,
    )
    return ExportPlan(tensors=plans, header=header_bytes(entries, tensor_headers(plans)))


def _encoded(checkpoint: Checkpoint, plans: tuple[TensorPlan, ...]) -> Iterator[bytes | memoryview]:
    """The data of all tensors in order; a few chunks are in work at a time."""
    threads = usable_cores()
    pending: deque[Future[bytes | memoryview]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for plan, start, stop in _chunks(plans):
                pending.append(pool.submit(_encode_rows, checkpoint, plan, start, stop))
                if len(pending) > 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _chunks(plans: tuple[TensorPlan, ...]) -> Iterator[tuple[TensorPlan, int, int]]:
    for plan in plans:
        step = plan.layout.rows_at_once(max(1, _CHUNK_WEIGHTS // plan.row_length))
        for start in range(0, plan.rows, step):
            yield plan, start, min(start + step, plan.rows)


def _encode_rows(checkpoint: Checkpoint, plan: TensorPlan, start: int, stop: int) -> bytes | memoryview:
    """The bytes of these rows, padded to the alignment where they end the tensor."""
    values = checkpoint.rows(plan.hf_name, start, stop)
    if not np.isfinite(values).all():
        raise UsageError(f"{plan.hf_name} holds NaN or infinity; train or save the model again.")
    values = plan.layout.stored(values)
    try:
        data = encode(values, plan.type).data
    except OverflowError:
        raise UsageError(
            f"{plan.gguf_name} holds {np.abs(values).max():.4g}, beyond {plan.type}; choose bf16 or f32."
        ) from None
    padding = _aligned(plan.nbytes) - plan.nbytes if stop == plan.rows else 0
    return bytes(data) + bytes(padding) if padding else data


def tensor_headers(plans: Sequence[TensorPlan]) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """What :func:`header_bytes` needs to know of tensors that follow each other."""
    offset = 0
    for plan in plans:
        yield plan.gguf_name, plan.shape, ggml_type(plan.type), offset
        offset += _aligned(plan.nbytes)


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _chat_template(model_dir: Path) -> str | None:
    file = model_dir / "chat_template.jinja"
    if file.exists():
        return read_text(file)
    template = _optional_json(model_dir / "tokenizer_config.json").get("chat_template")
    if template is not None and not isinstance(template, str):
        raise UsageError(f"{model_dir}/tokenizer_config.json has a chat_template that is no text; leave one in it.")
    return template


def _card_licence(model_dir: Path) -> dict[str, str]:
    """The licence keys that llama.cpp's converter makes of the head of README.md."""
    if not (model_dir / "README.md").exists():
        return {}
    read_text(model_dir / "README.md")
    try:
        card = Metadata.load_model_card(model_dir)
    except (RecursionError, YAMLError) as error:
        raise UsageError(f"the head of {model_dir / 'README.md'} is not YAML; mend or remove it.") from error
    return {key: card[field] for field, key in LICENCE_KEYS.items() if isinstance(card.get(field), str)}
