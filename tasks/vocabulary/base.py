"""The vocabulary that is pruned: its pieces, how both runtimes merge them, and what no pruning may take away.

Hugging Face merges the neighbours of the best rank, llama.cpp those whose joined piece has the best score.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import MAX_TOKENIZER, read_json
from tasks.checkpoints.source import read_text_config
from tasks.tokenizers.reading import SPACE_MARK, load_vocabulary
from tasks.tokenizers.tokenizer_json import tokenizer_json
from tasks.tokenizers.vocabulary import Vocabulary

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MASK = "<mask>"  # transformers' GemmaTokenizer adds it where it is missing, with an id beyond the embedding
# Single characters that stay whether counted or not, for names, units and formulas; bytes stand in for all others.
_ALPHABETS = (
    range(0x20, 0x180),  # Basic Latin, Latin-1, Latin Extended-A
    range(0x370, 0x400),  # Greek
    range(0x2010, 0x2300),  # punctuation, super- and subscripts, currencies, letterlike symbols, arrows, operators
)


@dataclass(frozen=True, kw_only=True)
class BaseVocabulary:
    """``tokenizer`` is the content of tokenizer.json, ``config`` of config.json; ids without a row of the embedding are
    left out of all else."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    pieces: Mapping[int, str]
    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]  # Hugging Face: pair -> rank, the smallest first
    scores: Mapping[str, float]  # llama.cpp: piece -> score, the largest first
    normal: frozenset[int]  # pieces that come about by merging only
    structure: frozenset[int]  # what is never dropped


def load_base(model_dir: Path) -> BaseVocabulary:
    """The vocabulary of a Hugging Face folder.

    Raises UsageError where the model could not be converted, is multimodal, or its tokenizer is unsound.
    """
    config = read_text_config(model_dir)
    describe(config)
    vocabulary = load_vocabulary(model_dir, config)
    file = model_dir / "tokenizer.json"
    try:
        tokenizer = read_json(file, MAX_TOKENIZER) if file.exists() else tokenizer_json(vocabulary)
        return vocabulary_of(tokenizer, vocabulary, config)
    except ValueError as error:
        raise UsageError(f"{model_dir} {error}.") from error


def vocabulary_of(tokenizer: Mapping[str, Any], vocabulary: Vocabulary, config: Mapping[str, Any]) -> BaseVocabulary:
    """One vocabulary as both runtimes read it. Raises ValueError where it is unsound."""
    size = config["vocab_size"]
    pieces = {id_: piece for piece, id_ in tokenizer["model"]["vocab"].items() if id_ < size}
    pieces |= {token["id"]: token["content"] for token in tokenizer["added_tokens"] if token["id"] < size}
    ids = {piece: id_ for id_, piece in pieces.items()}
    if len(ids) != len(pieces):
        raise ValueError(f"repeats {len(pieces) - len(ids)} pieces in its vocabulary; mend its tokenizer")
    structure = _structure(vocabulary, config, tokenizer)
    if lost := sorted(structure - pieces.keys()):
        raise ValueError(f"names the special token {lost[0]}, which its vocabulary lacks; mend its config")
    return BaseVocabulary(
        tokenizer=tokenizer,
        config=config,
        pieces=pieces,
        ids=ids,
        ranks={pair: rank for rank, pair in enumerate(merge_pairs(tokenizer))},
        scores=dict(zip(vocabulary.tokens, vocabulary.scores, strict=True)),
        normal=frozenset(id_ for id_, type_ in enumerate(vocabulary.types) if type_ == TokenType.NORMAL),
        structure=frozenset(structure),
    )


def merge_pairs(tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges by rank; older files write the two pieces with a space between them."""
    for merge in tokenizer["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _structure(vocabulary: Vocabulary, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> set[int]:
    """Special tokens that every text may need, bytes, runs of white space, and the characters of common alphabets."""
    kept = {vocabulary.bos, vocabulary.eos, vocabulary.unknown}
    kept |= set() if vocabulary.padding is None else {vocabulary.padding}
    kept |= set(_template_ids(tokenizer.get("post_processor")))
    for configured in map(config.get, _SPECIAL_IDS):
        kept |= {id_ for id_ in (configured if isinstance(configured, list) else [configured]) if id_ is not None}
    for id_, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if (
            type_ == TokenType.BYTE
            or token == _MASK
            or (type_ == TokenType.USER_DEFINED and not token.strip())
            or (type_ == TokenType.NORMAL and (token == SPACE_MARK or (len(token) == 1 and _in_alphabets(token))))
        ):
            kept.add(id_)
    return kept


def _in_alphabets(character: str) -> bool:
    return any(ord(character) in alphabet for alphabet in _ALPHABETS)


def _template_ids(processor: Any) -> Iterable[int]:
    """The token ids that a post-processor puts around a text."""
    if isinstance(processor, Mapping):
        for token in processor.get("special_tokens", {}).values():
            yield from token["ids"]
        for part in processor.get("processors", []):
            yield from _template_ids(part)
