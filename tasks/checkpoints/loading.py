"""The one loader of models and adapters by PyTorch: for training, evaluation and proofs.

transformers and PEFT go on with random weights where some are missing, and leave out what they do not know, with a
warning at most. Here a model is whole or refused, by the rules that hold for conversion and inspection too.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from registry.errors import UsageError
from tasks.checkpoints.adapters import (
    PEFT_PREFIX,
    adapter_names,
    base_of,
    is_lora,
    read_adapter_config,
    renamed_patterns,
    require_whole_lora,
    tokenizer_folder,
)
from tasks.checkpoints.architectures import Config, text_config
from tasks.checkpoints.checkpoint import stored_types
from tasks.checkpoints.files import read_json
from tasks.checkpoints.folders import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    adapter_weights,
    has_tokenizer,
    is_adapter,
    weight_files,
)
from tasks.checkpoints.names import naming
from tasks.checkpoints.source import require_described
from tasks.checkpoints.whole import require_names

_DTYPES = {16: torch.bfloat16, 32: torch.float32}


def load_model(
    folder: Path, *, bits: int = 32, device: str | None = None, arithmetic: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """The causal language model in ``folder``, in evaluation mode; of a multimodal model the text part.

    Args:
        bits: of the weights: 4 (nf4), 8, 16 (bf16) or 32.
        device: where they go; None takes the GPU if there is one.
        arithmetic: of layers of 4 and 8 bits, and of what stands between them.

    Raises:
        UsageError: the folder holds no whole model in safetensors, or more than that, or bitsandbytes is needed
            and missing.
    """
    stored = [name for path in weight_files(folder) for name in stored_types(path)]
    config = read_json(folder / CONFIG_FILE)
    require_described(folder, config)
    name_of = naming(config)
    rename = {name: name_of(name) for name in stored}
    renamed = {f"^{re.escape(old)}$": new for old, new in rename.items() if new not in (None, old)}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=_for_transformers(folder, config),
            device_map={"": device or _default_device()},
            use_safetensors=True,
            key_mapping=renamed or None,
            output_loading_info=True,
            **_weights_of(bits, arithmetic),
        )
    except Exception as error:  # config.json is a stranger's, and transformers raises whatever it leads to
        raise UsageError(f"the model in {folder} cannot be loaded: {_first_line(error)}.") from error
    model, found = loaded
    left_out = {name for name, new in rename.items() if new is None}
    require_names(folder, missing=found["missing_keys"], unexpected=set(found["unexpected_keys"]) - left_out)
    output = model.get_output_embeddings()
    if output is not None:  # a stored output matrix counts, whatever config.json says
        model.config.tie_word_embeddings = output.weight is model.get_input_embeddings().weight
    if renamed:
        model._weight_conversions = None  # else save_pretrained would give the tensors their old names again
    return model


def load_with_adapter(folder: Path, *, bits: int = 32, device: str | None = None) -> nn.Module:
    """The model in ``folder`` or, where that is an adapter, its base with the adapter around it.

    Raises:
        UsageError: as :func:`load_model` and :func:`add_adapter`, or the adapter names no base that is there.
        ServiceUnavailable: the base is a model of the hub, which is out of reach.
    """
    if not is_adapter(folder):
        return load_model(folder, bits=bits, device=device)
    adapter_weights(folder)  # tells a pickle before the base is loaded
    base = base_of(folder)
    return add_adapter(load_model(base, bits=bits, device=device), base, folder)


def add_adapter(model: PreTrainedModel, base: Path, folder: Path) -> Any:
    """The PEFT model of the adapter in ``folder`` around ``model``, which was loaded from ``base``.

    Raises UsageError where the adapter is not whole, not for this base, or cannot be loaded.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
    from safetensors.torch import load_file

    settings, weights = read_adapter_config(folder), adapter_weights(folder)
    names = {name: name for name in stored_types(weights)}
    tensors = load_file(weights, device=str(model.device))
    modules: set[str] = set()
    base_config = read_json(base / CONFIG_FILE)
    if is_lora(settings):
        named = adapter_names(folder, names, base_config)
        shapes = {name: tuple(tensors[stored].shape) for stored, name in named.items()}
        modules = require_whole_lora(folder, settings, shapes, _matrices(model))
        names = {stored: f"{PEFT_PREFIX}{name}" for stored, name in named.items()}
    try:
        config: Any = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if settings.get("target_modules") is not None and modules:  # a pattern is for the names of its own base
            config.target_modules = modules
            config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
            config.alpha_pattern = renamed_patterns(folder, config.alpha_pattern, base_config)
            config.rank_pattern = renamed_patterns(folder, config.rank_pattern, base_config)
        kind = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, peft.PeftModel)
        adapted = kind(model, config)
        found: Any = peft.set_peft_model_state_dict(adapted, {name: tensors[stored] for stored, name in names.items()})
    except UsageError:
        raise
    except Exception as error:  # adapter_config.json is a stranger's, and PEFT raises whatever it leads to
        raise UsageError(f"the adapter in {folder} cannot be loaded: {_first_line(error)}.") from error
    if not config.is_prompt_learning:  # PEFT is strict with those, and counts them as unexpected
        prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
        missing = [name for name in found.missing_keys if prefix in name]
        require_names(folder, missing=missing, unexpected=found.unexpected_keys)
    return adapted.eval()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder; of an adapter's base where the adapter has none.

    Raises UsageError where there is none or it cannot be built.
    """
    folder = tokenizer_folder(folder)
    if not has_tokenizer(folder):  # transformers would make an empty one
        raise UsageError(f"{folder} has no tokenizer; a base folder needs {' or '.join(TOKENIZER_FILES)}.")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UsageError(f"the tokenizer in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error


def _weights_of(bits: int, arithmetic: torch.dtype) -> dict[str, Any]:
    if bits in _DTYPES:
        return {"dtype": _DTYPES[bits]}
    return {"dtype": arithmetic, "quantization_config": _bitsandbytes_config(bits, arithmetic)}


def _bitsandbytes_config(bits: int, arithmetic: torch.dtype) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"weights of {bits} bits need bitsandbytes; install gemmill[bitsandbytes] or take 16 bits."
        ) from error
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=arithmetic)


def _default_device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _for_transformers(folder: Path, config: Config) -> Any:
    """The config of the text part, by which transformers chooses the class."""
    text = text_config(config)
    if text is config:
        return AutoConfig.from_pretrained(folder)
    return AutoConfig.for_model(**text)


def _matrices(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The modules that hold a matrix, and its shape."""
    weights = ((name, getattr(module, "weight", None)) for name, module in model.named_modules())
    return {name: tuple(w.shape) for name, w in weights if isinstance(w, torch.Tensor) and w.dim() == 2}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
