"""The tokenizer in the metadata of a GGUF file."""

from typing import Any

from registry.errors import UsageError
from tasks.checkpoints.files import shown
from tasks.gguf.container import GgufFile
from tasks.tokenizers.byte_level import check_byte_level
from tasks.tokenizers.merges import merge_texts
from tasks.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from tasks.tokenizers.vocabulary import ByteLevelVocabulary, Vocabulary, check_pieces, check_prefix

_ONLY = {  # what is read of a tokenizer's further switches, and what llama.cpp takes where the file says nothing
    "add_eos_token": (False, False),
    "remove_extra_whitespaces": (False, False),
    "escape_whitespaces": (True, True),
}


def read_tokenizer(file: GgufFile) -> Vocabulary | ByteLevelVocabulary:
    """The vocabulary of ``file``. Raises UsageError where it is of another kind, or unsound."""
    match file.metadata.get("tokenizer.ggml.model"):
        case "llama":
            return _sentencepiece(file)
        case "gpt2":
            return _byte_level(file)
        case model:
            raise UsageError(
                f"{file.path} holds the tokenizer {shown(model)}; only SentencePiece's and byte-level BPE, which GGUF "
                "calls 'llama' and 'gpt2', can be imported."
            )


def _sentencepiece(file: GgufFile) -> Vocabulary:
    for switch, (needed, default) in _ONLY.items():
        if _switch(file, switch, default) is not needed:
            raise UsageError(f"{file.path} does not say tokenizer.ggml.{switch} = {needed}; only that can be imported.")
    scores = read_list(file, "tokenizer.ggml.scores", float)
    vocabulary = Vocabulary(
        tokens=read_list(file, "tokenizer.ggml.tokens", str),
        types=read_list(file, "tokenizer.ggml.token_type", int),
        scores=scores,
        bos=token_id(file, "bos"),
        eos=token_id(file, "eos"),
        unknown=token_id(file, "unknown"),
        padding=find_token_id(file, "padding"),
        add_bos=_switch(file, "add_bos_token", True),
        space_prefix=_switch(file, "add_space_prefix", True),
    )
    check_pieces(file.path, vocabulary.tokens, vocabulary.scores, vocabulary.types)
    check_prefix(file.path, vocabulary)
    return vocabulary


def _byte_level(file: GgufFile) -> ByteLevelVocabulary:
    pre = file.metadata.get("tokenizer.ggml.pre")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise UsageError(
            f"{file.path} splits texts in the way {shown(pre)}; only {', '.join(PRE_TOKENIZERS)} can be imported."
        )
    if _switch(file, "add_eos_token", False):
        raise UsageError(f"{file.path} puts an EOS after each text, which cannot be imported.")
    merges = merge_texts(file.path, read_list(file, "tokenizer.ggml.merges", str))
    vocabulary = ByteLevelVocabulary(
        tokens=read_list(file, "tokenizer.ggml.tokens", str),
        types=read_list(file, "tokenizer.ggml.token_type", int),
        merges=list(zip(merges[::2], merges[1::2], strict=True)),
        pre=pre,
        bos=find_token_id(file, "bos"),
        eos=token_id(file, "eos"),
        unknown=find_token_id(file, "unknown"),
        padding=find_token_id(file, "padding"),
        add_bos=_switch(file, "add_bos_token", PRE_TOKENIZERS[pre].adds_bos),
    )
    check_byte_level(file.path, vocabulary)
    return vocabulary


def _switch(file: GgufFile, name: str, default: bool) -> bool:
    value = file.metadata.get(f"tokenizer.ggml.{name}", default)
    if type(value) is not bool:
        raise UsageError(f"{file.path} has tokenizer.ggml.{name} = {shown(value)}; it is true or false.")
    return value


def read_list(file: GgufFile, key: str, kind: type) -> list[Any]:
    """The list under ``key``. Raises UsageError unless all its values are of ``kind``."""
    values = file.metadata.get(key)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise UsageError(f"{file.path} lacks a sound list under {key}.")
    return values


def token_id(file: GgufFile, name: str) -> int:
    """The id of a special token. Raises UsageError where there is none of the vocabulary."""
    value = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if type(value) is not int or not isinstance(tokens, list) or not 0 <= value < len(tokens):
        raise UsageError(
            f"{file.path} has tokenizer.ggml.{name}_token_id = {shown(value)}, which is no id of its vocabulary."
        )
    return value


def find_token_id(file: GgufFile, name: str) -> int | None:
    """The same; None where the file names none."""
    return token_id(file, name) if f"tokenizer.ggml.{name}_token_id" in file.metadata else None
