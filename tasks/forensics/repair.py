"""Rescales Gemma 3 so that its residual stream fits float16, without changing what it computes.

The embedding and the norms after attention and MLP are all that write to the residual stream, and all that
reads it is a norm, which divides any common factor s out again. So these three are multiplied by s, a power
of two, which is exact for the embedding. Where the output matrix is the embedding, the final norm's gain
makes up for it with 1 / s. Only the norms' epsilon is not free of scale: on the 270M base it moves logits by
1e-4.

s follows from a bound that holds for every input: a norm's output is at most sqrt(hidden) times its gain, so
channel c stays below sqrt(hidden) times the sum over the blocks of its gains and its largest embedding entry.
A GGUF file needs none of this: its norms and its runtime's activations are float32.
"""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from registry.files import atomic_directory
from tasks.checkpoints.files import read_json
from tasks.forensics.checkpoints import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_FLOAT16_MAX = 65_504.0
_REPAIRABLE = "gemma3_text"
_EMBEDDING, _OUTPUT, _FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_WRITING_NORMS = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


class Bounds(BaseModel):
    """What no activation can exceed, whatever the input, and the largest gain that leads there."""

    model_config = ConfigDict(frozen=True)

    residual_stream: float
    final_norm_output: float
    largest_residual_gain: float
    largest_final_gain: float


class RepairReport(BaseModel):
    """What was multiplied by ``scale``, and the bounds before and after."""

    model_config = ConfigDict(frozen=True)

    model: str
    scale: float
    tied: bool
    before: Bounds
    after: Bounds

    @property
    def fits_float16(self) -> bool:
        return max(self.after.residual_stream, self.after.final_norm_output) <= _FLOAT16_MAX


def repair_norms(model_dir: Path, out_dir: Path) -> RepairReport:
    """Write ``model_dir`` to ``out_dir`` with its residual stream scaled to fit float16.

    Norms become float32 in the file, and the config says so: in bfloat16, w = s · gain - 1 near -1 would lose
    the gain. Nothing lies under ``out_dir`` after a failure. Raises UsageError for other architectures than
    Gemma 3's text model.
    """
    if out_dir.exists():
        raise UsageError(f"{out_dir} exists; name another folder or delete it.")
    with open_checkpoint(model_dir) as checkpoint:
        if checkpoint.architecture != _REPAIRABLE or checkpoint.format != "safetensors":
            raise UsageError(
                f"{model_dir} holds {checkpoint.architecture} as {checkpoint.format}; only a safetensors "
                f"folder of {_REPAIRABLE} can be rescaled."
            )
        before = _bounds(checkpoint)
    if not math.isfinite(before.residual_stream):
        raise UsageError(f"{model_dir} holds NaN or infinity in its norms or embedding; there is nothing to save.")
    config = read_json(model_dir / "config.json")
    tied = bool(config.get("tie_word_embeddings", True))
    scale = 2.0 ** min(0, math.floor(math.log2(_FLOAT16_MAX / max(before.residual_stream, 1.0))))
    with atomic_directory(out_dir) as folder:
        _write(model_dir, folder, config, _factors(scale, tied=tied))
        with open_checkpoint(folder) as checkpoint:
            after = _bounds(checkpoint)
    report = RepairReport(model=str(model_dir), scale=scale, tied=tied, before=before, after=after)
    if not report.fits_float16:
        logger.warning("the final norm's output may still reach %.4g in float16", after.final_norm_output)
    return report


def _bounds(checkpoint: Checkpoint) -> Bounds:
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    embedding = tensors[_EMBEDDING]
    width = embedding.shape[1]
    step = max(1, (1 << 18) // width)
    largest = np.max(
        [
            np.abs(embedding.rows(start, min(start + step, embedding.shape[0]))).max(axis=0)
            for start in range(0, embedding.shape[0], step)
        ],
        axis=0,
    )
    written = [np.abs(1 + t.whole()[0]) for name, t in tensors.items() if name.endswith(_WRITING_NORMS)]
    final = float(np.abs(1 + tensors[_FINAL_NORM].whole()).max())
    return Bounds(
        residual_stream=float(math.sqrt(width) * (largest + np.sum(written, axis=0)).max()),
        final_norm_output=math.sqrt(width) * final,
        largest_residual_gain=float(np.max(written)),
        largest_final_gain=final,
    )


def _factors(scale: float, *, tied: bool) -> dict[str, float]:
    """Name, or its end, -> what the tensor is multiplied by; for a norm, its gain."""
    factors = {_EMBEDDING: scale, **dict.fromkeys(_WRITING_NORMS, scale)}
    return factors | {_OUTPUT: scale, _FINAL_NORM: 1 / scale} if tied else factors


def _write(model_dir: Path, folder: Path, config: dict[str, Any], factors: dict[str, float]) -> None:
    from safetensors.torch import load_file, save_file

    total = 0
    for path in sorted(model_dir.iterdir()):
        if path.suffix != ".safetensors":
            if path.is_file():
                shutil.copy2(path, folder / path.name)
            continue
        tensors = {name: _scaled(values, _factor(name, factors)) for name, values in load_file(path).items()}
        total += sum(values.nbytes for values in tensors.values())
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        index.write_text(json.dumps({**read_json(index), "metadata": {"total_size": total}}, indent=2) + "\n")


def _factor(name: str, factors: dict[str, float]) -> float:
    return next((factor for end, factor in factors.items() if name.endswith(end)), 1.0)


def _scaled(values: "torch.Tensor", factor: float) -> "torch.Tensor":
    """A matrix times ``factor`` in its own type; a norm with its gain times ``factor``, as float32."""
    if values.ndim > 1:
        return values * factor
    return values.float() if factor == 1 else ((1 + values.double()) * factor - 1).float()
