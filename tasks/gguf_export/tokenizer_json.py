"""A GGUF vocabulary as the tokenizer.json that Hugging Face reads, laid out as Google's own for Gemma 3.

llama.cpp merges the two neighbours whose joined piece has the best score; Hugging Face's BPE merges by the
rank of the pair. The ranks follow from the scores: every split of a piece into two pieces, best score first.
"""

from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.gguf_export.merges import ranked_merges
from tasks.gguf_export.tokenizer import SPACE_MARK
from tasks.gguf_export.vocabulary import Vocabulary


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json: BPE with byte fallback, one BOS before each text.

    Unused tokens are left out; converting the folder again fills their places.
    """
    pieces = [
        token.replace(" ", SPACE_MARK) if type_ == TokenType.USER_DEFINED else token
        for token, type_ in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    used = [id_ for id_, type_ in enumerate(vocabulary.types) if type_ != TokenType.UNUSED]
    ids = {pieces[id_]: id_ for id_ in used}
    if len(ids) != len(used):
        raise UsageError(f"the vocabulary repeats {len(used) - len(ids)} pieces, which tokenizer.json cannot express.")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces, vocabulary.types),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _bos_first(vocabulary, pieces),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[vocabulary.unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": ranked_merges(pieces, vocabulary.scores, vocabulary.types),
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


def _bos_first(vocabulary: Vocabulary, pieces: list[str]) -> dict[str, Any]:
    bos = pieces[vocabulary.bos]

    def sequence(id_: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": bos, "type_id": type_id}},
            {"Sequence": {"id": id_, "type_id": type_id}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.bos], "tokens": [bos]}},
    }
