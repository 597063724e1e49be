"""A PEFT LoRA folder becomes a GGUF adapter, which llama.cpp puts over the GGUF of its base: ``--lora ADAPTER.gguf``.

Names, order and bytes are those of llama.cpp's convert_lora_to_gguf.py. What that script, or llama.cpp, takes for
something else without a word is refused here, and the alpha of a rank-stabilised adapter is written as llama.cpp, which
divides by the rank, needs it.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_VERSION, GGUFValueType

from registry.errors import UsageError
from tasks.checkpoints.adapters import adapter_names, is_lora, matrices_of, read_adapter_config, require_whole_lora
from tasks.checkpoints.architectures import EMBEDDING, Config, Layout, describe
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.files import read_json, shown
from tasks.checkpoints.folders import CONFIG_FILE, adapter_weights
from tasks.gguf.container import KeyValue, header_bytes
from tasks.gguf.plan import TensorPlan
from tasks.gguf.writer import ExportPlan, ExportReport, tensor_headers, write_export
from tasks.quant.types import BLOCK_SIZE, QuantType

_TENSOR = re.compile(r"(.+)\.lora_([AB])\.weight")
_TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16, QuantType.Q8_0)
# What changes the function and is not in the two matrices of a module.
_UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "alpha_pattern", "fan_in_fan_out", "lora_bias",
                "layer_replication", "modules_to_save", "target_parameters", "trainable_token_indices",
                "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
                "velora_config")  # fmt: skip
_CHANGES_THE_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)


def adapter_type(label: str) -> QuantType:
    """The type of this name. Raises UsageError for one that an adapter cannot have."""
    if label.lower() not in _TYPES:
        raise UsageError(f"an adapter can be {', '.join(_TYPES)}, not {shown(label)}.")
    return QuantType(label.lower())


def plan_adapter(adapter_dir: Path, *, weights: QuantType, base: Path | None = None) -> ExportPlan:
    """What :func:`export_adapter` with the same arguments will write; no weight is read for it."""
    with Checkpoint(adapter_dir, adapter_weights(adapter_dir).name) as checkpoint:
        return _plan(adapter_dir, checkpoint, weights, base, adapter_dir.resolve().name)


def export_adapter(
    adapter_dir: Path, out: Path, *, weights: QuantType, base: Path | None = None, name: str | None = None
) -> ExportReport:
    """Write the adapter in ``adapter_dir`` as ``out``.

    Args:
        adapter_dir: adapter_config.json and adapter_model.safetensors of a LoRA on linear layers.
        out: replaced once the new file is whole.
        weights: f32, f16, bf16 or q8_0, which leaves a matrix whose rows blocks do not divide in f16.
        base: the Hugging Face folder of the base; None takes the one that the adapter names.
        name: general.name; None takes the folder's.

    Raises:
        UsageError: the folder is unsound, is not for this base, or does more than llama.cpp's adapters can.
    """
    with Checkpoint(adapter_dir, adapter_weights(adapter_dir).name) as checkpoint:
        plan = _plan(adapter_dir, checkpoint, weights, base, name or adapter_dir.resolve().name)
        return write_export(out, plan, checkpoint)


def _plan(adapter_dir: Path, checkpoint: Checkpoint, weights: QuantType, base: Path | None, name: str) -> ExportPlan:
    weights = adapter_type(weights)
    config = read_adapter_config(adapter_dir)
    if not is_lora(config):
        raise UsageError(f"{adapter_dir} is a {shown(config['peft_type'])} adapter; only LORA can be converted.")
    base_config = _base_config(adapter_dir, config, base)
    model = describe(base_config)
    checkpoint.rename(adapter_names(adapter_dir, checkpoint.tensors, base_config).get)
    ranks = _ranks(adapter_dir, config, checkpoint, model.tensor_shapes)
    tensors = []
    for module in ranks:
        for side in "AB":
            hf_name = f"{module}.lora_{side}.weight"
            shape = checkpoint.tensors[hf_name].shape
            fits = weights is not QuantType.Q8_0 or shape[-1] % BLOCK_SIZE == 0
            tensors.append(
                TensorPlan(
                    hf_name=hf_name,
                    gguf_name=f"{model.gguf_name(f'{module}.weight')}.lora_{side.lower()}",
                    shape=shape,
                    type=weights if fits else QuantType.F16,
                    layout=model.layout(f"{module}.weight") if side == "B" else Layout(),  # B has the rows
                )
            )
    entries = [
        KeyValue("general.architecture", GGUFValueType.STRING, model.architecture.gguf),
        KeyValue("general.type", GGUFValueType.STRING, "adapter"),
        KeyValue("adapter.type", GGUFValueType.STRING, "lora"),
        KeyValue("general.name", GGUFValueType.STRING, name),
        KeyValue("adapter.lora.alpha", GGUFValueType.FLOAT32, _alpha(adapter_dir, config, set(ranks.values()))),
        KeyValue("general.quantization_version", GGUFValueType.UINT32, GGML_QUANT_VERSION),
    ]
    return ExportPlan(tensors=tuple(tensors), header=header_bytes(entries, tensor_headers(tensors)))


def _base_config(adapter_dir: Path, config: Mapping[str, Any], base: Path | None) -> Config:
    folder = base or Path(str(config.get("base_model_name_or_path") or ""))
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"the base of {adapter_dir} is {shown(str(folder))}, which is no Hugging Face folder here; name it with "
            "--base."
        )
    return read_json(folder / CONFIG_FILE)


def _ranks(
    adapter_dir: Path, config: Mapping[str, Any], checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """The rank of each adapted module, in the order of the file, once their matrices are known to fit the base."""
    modules: list[str] = []
    for name, _ in sorted(checkpoint.tensors.items(), key=lambda item: item[1].offset):
        match = _TENSOR.fullmatch(name)
        if match is None or f"{match[1]}.weight" not in shapes or len(shapes[f"{match[1]}.weight"]) != 2:
            raise UsageError(
                f"{shown(name)} is not a LoRA matrix of a linear layer of the base, which is all that llama.cpp's "
                "adapters hold; merge the adapter into its base instead."
            )
        if f"{match[1]}.weight" == EMBEDDING:
            raise UsageError(f"{shown(name)}: llama.cpp would adapt a tied output as well; merge the adapter instead.")
        modules.append(match[1])
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    require_whole_lora(adapter_dir, config, found, matrices_of(shapes))
    return {module: found[f"{module}.lora_A.weight"][0] for module in dict.fromkeys(modules)}


def _alpha(adapter_dir: Path, config: Mapping[str, Any], ranks: set[int]) -> float:
    """llama.cpp's scale is alpha / rank, of the rank that it finds in each module."""
    for key in _UNSUPPORTED:
        if config.get(key):
            raise UsageError(
                f"{adapter_dir} has {key} = {shown(config[key])}, which llama.cpp's adapters cannot say; "
                "merge it into its base instead."
            )
    if config.get("bias", "none") != "none" or _CHANGES_THE_BASE.match(str(config.get("init_lora_weights"))):
        raise UsageError(f"{adapter_dir} changes more than the adapted weights; merge it into its base instead.")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or not alpha:
        raise UsageError(f"{adapter_dir} has lora_alpha = {shown(alpha)} where a number other than 0 belongs.")
    if not config.get("use_rslora"):
        return float(alpha)
    if len(ranks) > 1:
        raise UsageError(f"{adapter_dir} is rank-stabilised with several ranks, which one alpha cannot say; merge it.")
    return alpha * math.sqrt(ranks.pop())
