"""Tiny models of other architectures with random weights, saved by transformers, and tokenizers as their hubs describe
them: byte-level BPE by the `tokenizers` package, SentencePiece's by its own."""

from pathlib import Path
from typing import Any

import torch
from gguf_samples import SENTENCES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from deployment.prompts.prompt import Prompt, chat_template
from deployment.prompts.turns import Turns

PROMPT = Prompt(turns=Turns.CHATML)
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGITS = {"llama-bpe": r"\p{N}{1,3}", "dbrx": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
SPECIAL = ["<|endoftext|>", "<|begin_of_text|>", *Turns.CHATML.form.control]
VOCABULARY = 420  # the embedding is longer
SIZE = 424


def byte_level_tokenizer(pre: str, *, bos: bool = False) -> Tokenizer:
    """One that splits as llama.cpp's ``pre`` does; with ``bos`` it begins each text with <|begin_of_text|>."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre in _DIGITS:
        first = [pre_tokenizers.Split(Regex(_WORDS % _DIGITS[pre]), "isolated")]
    else:
        first = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _DIGITS)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, last]) if first else last
    tokenizer.normalizer = normalizers.NFC() if pre == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    tokenizer.add_tokens([AddedToken("SG-402", normalized=False)])
    if bos:
        first_token = SPECIAL[1]
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{first_token} $A", pair=f"{first_token} $A {first_token} $B", special_tokens=[(first_token, 1)]
            ),
        ])  # fmt: skip
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """As transformers saves it, with the chat template of :data:`PROMPT`."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[1],
        eos_token=PROMPT.end,
        pad_token=SPECIAL[0],
        chat_template=chat_template(PROMPT),
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def save_model(config: PreTrainedConfig, folder: Path) -> None:
    """Random weights of a trained model's scale: what each layer attends to matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("norm.weight"):
                weights.normal_(1.0, 0.5)
            elif weights.dim() == 1:
                weights.normal_(0.0, 0.5)
            else:
                weights.normal_(0.0, (1.5 if "q_proj" in name or "k_proj" in name else 1.0) * weights.shape[-1] ** -0.5)
    model.save_pretrained(folder)


def shape(**changes: Any) -> dict[str, Any]:
    """Numbers of a tiny model whose heads share keys."""
    return {
        "vocab_size": SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0, **changes,
    }  # fmt: skip
