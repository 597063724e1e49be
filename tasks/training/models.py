"""Loading a causal language model for training, and saving what training made of it, as safetensors only."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from registry.errors import UsageError
from tasks.training.recipe import LoraRecipe, TrainingRecipe

ADAPTER_FOLDER = "adapter"
_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                  "qkv_proj", "gate_up_proj"]  # fmt: skip  # the last two are Phi-3's
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_DTYPES = {16: torch.bfloat16, 32: torch.float32}


def load_model(folder: Path, *, bits: int) -> PreTrainedModel:
    """The model of a Hugging Face folder with weights of 4 (nf4), 8, 16 (bf16) or 32 bits, on the GPU if there is one.

    Raises UsageError where the folder holds no whole model in safetensors, its final logits are soft-capped, or
    bitsandbytes is needed and missing.
    """
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    arguments: dict[str, Any] = {"device_map": {"": device}, "attn_implementation": "sdpa", "use_safetensors": True}
    if bits in _DTYPES:
        arguments["dtype"] = _DTYPES[bits]
    else:
        arguments["quantization_config"] = _bitsandbytes_config(bits)
        arguments["dtype"] = torch.bfloat16
    try:
        config = AutoConfig.from_pretrained(folder)
        if getattr(config, "final_logit_softcapping", None):
            raise UsageError(
                f"{folder} soft-caps its logits, which the training loss does not model; use a Gemma 3 model."
            )
        arguments["output_loading_info"] = True
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, **arguments)
        model, found = loaded
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(f"the model in {folder} cannot be loaded: {reason}.") from error
    if missing := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise UsageError(f"the model in {folder} lacks {missing[0]} ({len(missing)} missing in all); fetch it again.")
    return model


def load_for_training(base: Path, recipe: TrainingRecipe) -> tuple[PreTrainedModel, nn.Module]:
    """The model of ``base``, and what is trained: the model itself or an adapter around it."""
    model = load_model(base, bits=recipe.load_bits)
    model.get_input_embeddings().requires_grad_(recipe.train_embedding)
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, add_lora(model, recipe.lora) if recipe.lora else model


def save_training(model: PreTrainedModel, trained: nn.Module, base: Path, out: Path) -> None:
    """Write what :func:`load_for_training` gave as a Hugging Face folder, an adapter merged."""
    if trained is model:
        save_full(model, base, out)
    else:
        save_adapter_and_merged(trained, base, out)


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
    """Copy the tokenizer as it is, so that no library rewrites it on the way."""
    for name in (*_TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (base / name).exists():
            shutil.copy2(base / name, out / name)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder. Raises UsageError where there is none or it cannot be built."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make an empty one
        raise UsageError(f"{folder} has no tokenizer; a base folder needs {' or '.join(_TOKENIZERS)}.")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UsageError(f"the tokenizer in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
