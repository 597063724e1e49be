"""Loading a causal language model for training, and saving what training made of it, as safetensors only."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from deployment.runtimes.decoding import GREEDY
from registry.errors import UsageError
from registry.files import write_text
from tasks.checkpoints import loading
from tasks.checkpoints.folders import TOKENIZER_FILES
from tasks.training.recipe import LoraRecipe, TrainingRecipe

ADAPTER_FOLDER = "adapter"
_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                  "qkv_proj", "gate_up_proj"]  # fmt: skip  # the last two are Phi-3's


def load_model(folder: Path, *, bits: int, arithmetic: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The model of a Hugging Face folder with weights of 4, 8, 16 or 32 bits, as :func:`loading.load_model` gives it.

    Raises UsageError as that does, and where the final logits are soft-capped.
    """
    model = loading.load_model(folder, bits=bits, arithmetic=arithmetic)
    if getattr(model.config, "final_logit_softcapping", None):
        raise UsageError(f"{folder} soft-caps its logits, which the training loss does not model; use a Gemma 3 model.")
    return model


def load_for_training(base: Path, recipe: TrainingRecipe) -> tuple[PreTrainedModel, nn.Module]:
    """The model of ``base``, and what is trained: the model itself or an adapter around it."""
    model = load_model(base, bits=recipe.load_bits, arithmetic=torch.bfloat16 if recipe.in_bf16 else torch.float32)
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


def make_greedy(folder: Path) -> None:
    """Rewrite generation_config.json, so that whatever runs ``folder``, or a GGUF that was made of it, takes the
    likeliest token at any temperature that a client sets; the base's own sampling goes."""
    path = folder / "generation_config.json"
    ids = {name: value for name, value in json.loads(path.read_text()).items() if name.endswith("_token_id")}
    write_text(path, json.dumps({**ids, "do_sample": True, "top_k": GREEDY["top_k"]}, indent=2) + "\n")


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
    model.save_pretrained(out / ADAPTER_FOLDER)
    merged = loading.add_adapter(load_model(base, bits=32), base, out / ADAPTER_FOLDER).merge_and_unload()
    merged.save_pretrained(out)
    copy_tokenizer(base, out)


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer as it is, so that no library rewrites it on the way."""
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (base / name).exists():
            shutil.copy2(base / name, out / name)
