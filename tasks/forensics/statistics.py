"""Statistics of every tensor of a model: magnitudes, outliers, and the gains by which norms multiply.

Outliers are counted in robust standard deviations, 1.4826 times the median deviation from the centre, so that
outliers do not hide each other by widening the deviation. Of a weight matrix, which has a million entries
around 0, those beyond 6 are counted; of a norm, which has some hundred gains around their median, those
beyond 3.5 (the modified z-score of Iglewicz and Hoaglin, 1993).
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.forensics.checkpoints import Checkpoint, StoredTensor, open_checkpoint
from tasks.forensics.names import TensorKind, kind_of, layer_and_part, name_in_base, norm_offset
from tasks.forensics.streaming import Chunks, outlying, summarise

_KEPT_ENTRIES = 1 << 23  # 32 MB of float32
_THREADS = 2  # the embedding is most of a small model, so more wait for it


class NormGains(BaseModel):
    """What a norm multiplies each channel by: 1 + w in Gemma, w elsewhere. ``max_abs`` is at ``channel``."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    max_abs: float
    channel: int
    median_abs: float
    outliers: int
    values: tuple[float, ...]


class TensorStatistics(BaseModel):
    """One tensor, by the magnitudes of its finite entries; all figures are 0 where there are none.

    Those of a norm are of the weight w as Hugging Face stores it, whatever the file does; ``outliers`` counts
    its gains.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: TensorKind
    layer: int | None
    part: str
    shape: tuple[int, ...]
    dtype: str
    entries: int
    nonfinite: int
    max_abs: float
    p999_abs: float
    median_abs: float
    mean_abs: float
    std: float
    outliers: int
    gains: NormGains | None = None


class ModelStatistics(BaseModel):
    """Every tensor of a model in the order of its layers; the schema of ``--json``.

    Layers have their numbers in the base; ``base_layers`` lists them for a model that lost some.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    model: str
    format: str
    architecture: str
    parameters: int
    base_layers: tuple[int, ...] | None = None
    tensors: tuple[TensorStatistics, ...]

    @property
    def norms(self) -> tuple[TensorStatistics, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.gains)

    @property
    def weights(self) -> tuple[TensorStatistics, ...]:
        """Everything that is not a norm or a bias."""
        return tuple(tensor for tensor in self.tensors if tensor.kind in (TensorKind.LINEAR, TensorKind.EMBEDDING))

    def to_json(self) -> str:
        """JSON with one tensor a line, so that it can be read and compared by eye."""
        head = self.model_dump_json(exclude={"tensors"}).removesuffix("}")
        lines = ",\n".join(tensor.model_dump_json() for tensor in self.tensors)
        return f'{head},"tensors":[\n{lines}\n]}}\n'


def tensor_statistics(model: Path) -> ModelStatistics:
    """Measure a Hugging Face folder, a PEFT adapter folder or a GGUF file.

    Raises UsageError where it cannot be read.
    """
    with open_checkpoint(model) as checkpoint, ThreadPoolExecutor(_THREADS) as pool:
        largest_first = sorted(checkpoint.tensors, key=lambda tensor: -tensor.entries)
        measured = list(pool.map(lambda tensor: _measure(tensor, checkpoint), largest_first))
    return ModelStatistics(
        model=str(model),
        format=checkpoint.format,
        architecture=checkpoint.architecture,
        parameters=sum(tensor.entries for tensor in measured),
        base_layers=checkpoint.base_layers,
        tensors=tuple(sorted(measured, key=_layer_order)),
    )


def _layer_order(tensor: TensorStatistics) -> tuple[float, str]:
    outside = -1.0 if tensor.kind is TensorKind.EMBEDDING else math.inf
    return (outside if tensor.layer is None else tensor.layer), tensor.name


def _measure(tensor: StoredTensor, checkpoint: Checkpoint) -> TensorStatistics:
    name = name_in_base(tensor.name, checkpoint.base_layers) if checkpoint.base_layers else tensor.name
    kind = kind_of(name, tensor.shape)
    layer, part = layer_and_part(name)
    if kind is TensorKind.NORM:
        weight, gain = _weight_and_gain(tensor, checkpoint)
        chunks, gains = _repeated([weight]), _norm_gains(gain)
    else:
        chunks, gains = _rereadable(tensor), None
    figures = asdict(summarise(chunks))
    if gains:
        figures["outliers"] = gains.outliers
    return TensorStatistics(
        name=name,
        kind=kind,
        layer=layer,
        part=part,
        shape=tensor.shape,
        dtype=tensor.dtype,
        entries=tensor.entries,
        gains=gains,
        **figures,
    )


def _weight_and_gain(tensor: StoredTensor, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    stored = tensor.whole().reshape(-1).astype(np.float64)
    added = norm_offset(checkpoint.architecture, tensor.name)
    weight, gain = (stored - added, stored) if checkpoint.stores_gain else (stored, stored + added)
    return weight.astype(np.float32), gain


def _rereadable(tensor: StoredTensor) -> Chunks:
    """Chunks that can be read again and again: from memory where the tensor is small, else from the file."""
    return tensor.chunks if tensor.entries > _KEPT_ENTRIES else _repeated(list(tensor.chunks()))


def _repeated(chunks: list[np.ndarray]) -> Chunks:
    return lambda: iter(chunks)


def _norm_gains(gain: np.ndarray) -> NormGains:
    magnitude = np.where(np.isfinite(gain), np.abs(gain), 0.0)
    channel = int(np.argmax(magnitude))
    return NormGains(
        max_abs=float(magnitude[channel]),
        channel=channel,
        median_abs=float(np.median(magnitude)),
        outliers=int(outlying(magnitude).sum()),
        values=tuple(float(f"{value:.8g}") for value in gain),
    )
