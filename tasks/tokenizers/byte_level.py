"""Byte-level BPE, GPT-2's kind of tokenizer, which GGUF stores as tokens, merges and the name of a pre-tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import shown
from tasks.tokenizers.merges import merge_texts
from tasks.tokenizers.pre_tokenizers import pre_tokenizer_name
from tasks.tokenizers.special_tokens import SpecialIds, added_tokens, adds_bos, check_overlaps, overlay, unused
from tasks.tokenizers.vocabulary import ByteLevelVocabulary, check_tokens

_NO_SUCH_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
# The characters that stand for the 256 bytes: printable ones for themselves, the others from U+0100 on.
_BYTES = {chr(byte) for byte in _PRINTABLE} | {chr(0x100 + place) for place in range(256 - len(_PRINTABLE))}


def is_byte_level(content: Mapping[str, Any]) -> bool:
    """Whether this tokenizer.json describes a byte-level tokenizer."""
    splitter = content.get("pre_tokenizer")
    if not isinstance(splitter, Mapping):
        return False
    steps = splitter.get("pretokenizers") if splitter.get("type") == "Sequence" else [splitter]
    return isinstance(steps, list) and any(
        isinstance(step, Mapping) and step.get("type") == "ByteLevel" for step in steps
    )


def from_byte_level(
    path: Path, content: Mapping[str, Any], size: int, special: Callable[[Sequence[str]], SpecialIds]
) -> ByteLevelVocabulary:
    """The vocabulary of the tokenizer.json at ``path``, as long as an embedding of ``size`` rows.

    Raises UsageError where it is unsound or does what llama.cpp would not.
    """
    model, added = content.get("model"), content.get("added_tokens")
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise UsageError(f"{path} is no tokenizer.json: it lacks its model or its added tokens.")
    vocab, merges = model.get("vocab"), model.get("merges")
    if model.get("type") != "BPE" or not isinstance(vocab, Mapping) or not isinstance(merges, list):
        raise UsageError(f"{path} holds no BPE vocabulary with merges, as a byte-level tokenizer needs it.")
    if option := next((option for option in _NO_SUCH_OPTIONS if model.get(option)), None):
        raise UsageError(f"{path} sets {option} = {shown(model[option])}, which llama.cpp does not do.")
    texts = {id_: token for token, id_ in vocab.items() if type(id_) is int and id_ >= 0}
    if len(texts) != len(vocab):
        raise UsageError(f"{path} has a vocabulary with ids that are repeated or no numbers.")
    special_texts = added_tokens(path, added)
    if lost := [token for id_, token in texts.items() if id_ >= size and id_ not in special_texts]:
        raise UsageError(f"{path} has tokens beyond the {size} rows of the embedding, {shown(lost[0])} among them.")
    tokens, types = unused(size)
    for id_, token in texts.items():
        if id_ < size:
            tokens[id_], types[id_] = token, TokenType.NORMAL
    overlay(path, special_texts, tokens, types)
    pairs = merge_texts(path, merges)
    ids = special(tokens)
    bos = ids.find("bos")
    vocabulary = ByteLevelVocabulary(
        tokens=tokens,
        types=types,
        merges=list(zip(pairs[::2], pairs[1::2], strict=True)),
        pre=pre_tokenizer_name(path, content),
        bos=bos,
        eos=ids.require("eos"),
        unknown=ids.find("unk"),
        padding=ids.find("pad"),
        add_bos=adds_bos(path, content, None if bos is None else tokens[bos]),
    )
    check_byte_level(path, vocabulary)
    if (unknown := model.get("unk_token")) and not set(tokens) >= _BYTES:
        raise UsageError(f"{path} has the unk_token {shown(unknown)} for bytes without a token, which llama.cpp drops.")
    return vocabulary


def check_byte_level(path: Path, vocabulary: ByteLevelVocabulary) -> None:
    """Raise UsageError where llama.cpp would stop or split otherwise than Hugging Face, which refuses merges of unknown
    tokens."""
    tokens, types = vocabulary.tokens, vocabulary.types
    check_tokens(path, tokens, types)
    check_overlaps(path, tokens, types)
    if TokenType.BYTE in types:
        raise UsageError(f"{path} has byte tokens, which no byte-level vocabulary has.")
    normal = {token for token, type_ in zip(tokens, types, strict=True) if type_ == TokenType.NORMAL}
    if len(set(vocabulary.merges)) != len(vocabulary.merges):
        raise UsageError(f"{path} holds a merge twice; save the tokenizer again.")
    for left, right in vocabulary.merges:
        if left not in normal or right not in normal or left + right not in normal or " " in left + right:
            raise UsageError(f"{path} merges {shown(left)} and {shown(right)}, which with their sum are no tokens.")
