"""Loading a causal language model for training, and saving what training made of it, as safetensors only."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from registry.errors import UsageError
from tasks.training.recipe import LoraRecipe

ADAPTER_FOLDER = "adapter"
_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_DTYPES = {16: torch.bfloat16, 32: torch.float32}


def load_model(folder: Path, *, bits: int) -> PreTrainedModel:
    """The model of a Hugging Face folder with weights of 4 (nf4), 8, 16 (bf16) or 32 bits, on the GPU if there is one.

    Raises UsageError where bitsandbytes is needed and missing, or the final logits are soft-capped.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments: dict[str, Any] = {"device_map": {"": device}, "attn_implementation": "sdpa"}
    if bits in _DTYPES:
        arguments["dtype"] = _DTYPES[bits]
    else:
        arguments["quantization_config"] = _bitsandbytes_config(bits)
        arguments["dtype"] = torch.bfloat16
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "final_logit_softcapping", None):
        raise UsageError(f"{folder} soft-caps its logits, which the training loss does not model; use a Gemma 3 model.")
    return AutoModelForCausalLM.from_pretrained(folder, config=config, **arguments)


def _bitsandbytes_config(bits: int) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"weights of {bits} bits need bitsandbytes; install gemmill[bitsandbytes] or take 16 bits."
        ) from error
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def add_lora(model: PreTrainedModel, recipe: LoraRecipe) -> nn.Module:
    """Freeze the model and put a trainable adapter on every linear layer of its blocks."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=_LINEAR_LAYERS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_full(model: PreTrainedModel, base: Path, out: Path) -> None:
    """Write ``model`` with the tokenizer of ``base`` as a Hugging Face folder."""
    model.tie_weights()
    model.save_pretrained(out)
    copy_tokenizer(base, out)


def save_adapter_and_merged(model: Any, base: Path, out: Path) -> None:
    """Write the adapter to ``out/adapter`` and, into ``out``, the full-precision base with the adapter merged in.

    The base is loaded anew: merging into 4-bit weights would round the adapter away.
    """
    from peft import PeftModel

    model.save_pretrained(out / ADAPTER_FOLDER)
    merged = PeftModel.from_pretrained(load_model(base, bits=32), out / ADAPTER_FOLDER).merge_and_unload()
    merged.save_pretrained(out)
    copy_tokenizer(base, out)


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer as it is, so that no library rewrites them on the way."""
    names = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
             "added_tokens.json"]  # fmt: skip
    copied = [shutil.copy2(base / name, out / name) for name in names if (base / name).exists()]
    if not copied:
        raise UsageError(f"{base} has no tokenizer; a base folder needs tokenizer.json or tokenizer.model.")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder. Raises UsageError where it cannot be built."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"the tokenizer in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
