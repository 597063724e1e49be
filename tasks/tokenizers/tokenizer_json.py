"""A GGUF vocabulary as the tokenizer.json that Hugging Face reads, laid out as Google's own for Gemma 3.

Of a SentencePiece vocabulary llama.cpp merges the two neighbours whose joined piece has the best score; Hugging Face's
BPE merges by the rank of the pair. The ranks follow from the scores: every split of a piece into two pieces, best score
first. A byte-level vocabulary brings its merges.
"""

from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.tokenizers.merges import ranked_merges
from tasks.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from tasks.tokenizers.reading import SPACE_MARK, SPACE_PREFIX, SPACE_TO_MARK
from tasks.tokenizers.vocabulary import ByteLevelVocabulary, Vocabulary


def tokenizer_json(vocabulary: Vocabulary | ByteLevelVocabulary) -> dict[str, Any]:
    """The content of tokenizer.json; unused tokens are left out, and converting the folder again fills their places."""
    return _sentencepiece(vocabulary) if isinstance(vocabulary, Vocabulary) else _byte_level(vocabulary)


def _sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """BPE with byte fallback."""
    pieces = [
        token.replace(" ", SPACE_MARK) if type_ == TokenType.USER_DEFINED else token
        for token, type_ in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if vocabulary.space_prefix else []
    return _tokenizer(
        vocabulary,
        pieces,
        normalizer=SPACE_PREFIX if vocabulary.space_prefix else SPACE_TO_MARK,
        pre_tokenizer={
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        model={
            "unk_token": pieces[vocabulary.unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "merges": ranked_merges(pieces, vocabulary.scores, vocabulary.types),
        },
    )


def _byte_level(vocabulary: ByteLevelVocabulary) -> dict[str, Any]:
    known = PRE_TOKENIZERS[vocabulary.pre]
    steps = [{**step, "trim_offsets": False} if step["type"] == "ByteLevel" else step for step in known.steps]
    return _tokenizer(
        vocabulary,
        vocabulary.tokens,
        normalizer=known.normalizer,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        decoder={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        model={
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": known.ignore_merges,
            "merges": vocabulary.merges,
        },
    )


def _tokenizer(
    vocabulary: Vocabulary | ByteLevelVocabulary,
    pieces: list[str],
    *,
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any],
    decoder: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    used = [id_ for id_, type_ in enumerate(vocabulary.types) if type_ != TokenType.UNUSED]
    ids = {pieces[id_]: id_ for id_ in used}
    if len(ids) != len(used):
        raise UsageError(f"the vocabulary repeats {len(used) - len(ids)} pieces, which tokenizer.json cannot express.")
    bos = pieces[vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces, vocabulary.types),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None if bos is None else _bos_first(bos, ids[bos]),
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "vocab": ids,
            **model,
        },
    }


def _added_tokens(pieces: list[str], types: list[int]) -> list[dict[str, Any]]:
    special = (TokenType.CONTROL, TokenType.UNKNOWN)
    return [
        {
            "id": id_,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": type_ in special,
        }
        for id_, (piece, type_) in enumerate(zip(pieces, types, strict=True))
        if type_ in special or type_ == TokenType.USER_DEFINED
    ]


def _bos_first(bos: str, bos_id: int) -> dict[str, Any]:
    def sequence(id_: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": bos, "type_id": type_id}},
            {"Sequence": {"id": id_, "type_id": type_id}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
