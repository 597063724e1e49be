"""A small Gemma 3 with random weights and its own tokenizer: the embedded default and the model of fast tests."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from deployment.prompts.prompt import Prompt, chat_template
from deployment.prompts.turns import Turns
from registry.errors import UsageError
from registry.files import atomic_directory, write_text
from registry.records import LabelSet, Record, answer_text
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.architectures.gemma3 import layer_types
from tasks.tokenizers.reading import load_vocabulary
from tasks.tokenizers.tokenizer_json import tokenizer_json

_CONTEXT = 2048  # tokens
_SLIDING_WINDOW = 512  # as Gemma 3


def build_scratch_base(spec: ScratchBase, records: Iterable[Record], labels: LabelSet, out: Path) -> None:
    """Write a Hugging Face folder: tokenizer trained on ``records``, weights drawn with ``spec.seed``.

    The same records and spec give the same bytes.
    """
    texts = [text for record in records for text in (record.command, answer_text(record.response, labels))]
    with atomic_directory(out) as folder:
        _train_tokenizer(texts, spec.vocab_size, folder)
        torch.manual_seed(spec.seed)
        model = Gemma3ForCausalLM(_config(spec))
        model.save_pretrained(folder)


def _config(spec: ScratchBase) -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        query_pre_attn_scalar=spec.head_dim,
        max_position_embeddings=_CONTEXT,
        sliding_window=_SLIDING_WINDOW,
        layer_types=layer_types(spec.layers),
        pad_token_id=0,
        eos_token_id=[1, 5],
        bos_token_id=2,
    )


def _train_tokenizer(texts: list[str], vocab_size: int, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a vocabulary trained on ``texts``."""
    config = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": [1, 5], "bos_token_id": 2}
    with tempfile.TemporaryDirectory() as scratch:
        _train_sentencepiece(texts, vocab_size, Path(scratch) / "tokenizer")
        vocabulary = load_vocabulary(Path(scratch), config)
    write_text(folder / "tokenizer.json", json.dumps(tokenizer_json(vocabulary), ensure_ascii=False))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _CONTEXT,
        "chat_template": chat_template(Prompt()),
    }
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2))


def _train_sentencepiece(texts: list[str], vocab_size: int, prefix: Path) -> None:
    """SentencePiece BPE as Gemma's: byte fallback, single digits, no prefix space. Raises UsageError where ``texts``
    have too few pieces for the vocabulary, or too many characters."""
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(prefix),
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            character_coverage=1.0,
            pad_id=0, eos_id=1, bos_id=2, unk_id=3,
            pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
            control_symbols=list(Turns.GEMMA.form.control),
            num_threads=1,
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].rstrip(".")
        raise UsageError(
            f"no vocabulary of {vocab_size} tokens can be trained on these {len(texts) // 2} records ({reason}); "
            "change vocab_size in the profile or bring more records."
        ) from error
