"""Small vocabularies of any pieces, and both runtimes' ways of merging written anew as a reference."""

import heapq
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf.constants import TokenType
from tokenizers import Tokenizer

from tasks.tokenizers.reading import ADDED_TOKEN_SCORE
from tasks.tokenizers.tokenizer_json import tokenizer_json
from tasks.tokenizers.vocabulary import Vocabulary
from tasks.vocabulary.base import BaseVocabulary, vocabulary_of

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused0>")
CONFIG = {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0}


def vocabulary_with(pieces: Sequence[str]) -> Vocabulary:
    """Special tokens, an unused one, bytes, then ``pieces`` in the order in which they are merged."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    control = dict.fromkeys(range(len(SPECIAL)), TokenType.CONTROL) | {3: TokenType.UNKNOWN}
    first = len(SPECIAL) + 256
    types = [int(control.get(id_, TokenType.BYTE if id_ < first else TokenType.NORMAL)) for id_ in range(len(tokens))]
    scores = [
        ADDED_TOKEN_SCORE if id_ < len(SPECIAL) else 0.0 if id_ < first else -float(id_ - first)
        for id_ in range(len(tokens))
    ]
    return Vocabulary(tokens=tokens, scores=scores, types=types, bos=2, eos=1, unknown=3, padding=0)


def base_with(pieces: Sequence[str]) -> BaseVocabulary:
    vocabulary = vocabulary_with(pieces)
    config = {**CONFIG, "vocab_size": len(vocabulary.tokens)}
    return vocabulary_of(tokenizer_json(vocabulary), vocabulary, config)


def by_rank(tokenizer: Mapping[str, Any], text: str) -> list[int]:
    """As Hugging Face's library tokenises, no token added."""
    return Tokenizer.from_str(json.dumps(tokenizer)).encode(text, add_special_tokens=False).ids


def by_score(vocabulary: Vocabulary, text: str) -> list[int]:
    """As llama.cpp's SentencePiece session does: a queue of joinable neighbours, the best score first, then the
    leftmost; what is no token in the end is spelled in bytes."""
    ids = {token: id_ for id_, token in enumerate(vocabulary.tokens)}
    pieces: list[str | None] = list(text.replace(" ", "▁"))
    following = {place: place + 1 for place in range(len(pieces) - 1)}
    before = {place + 1: place for place in range(len(pieces) - 1)}
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int | None, right: int | None) -> None:
        if left is not None and right is not None and (joined := f"{pieces[left]}{pieces[right]}") in ids:
            heapq.heappush(queue, (-vocabulary.scores[ids[joined]], left, right, joined))

    for place in range(len(pieces) - 1):
        offer(place, place + 1)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        if pieces[left] is None or pieces[right] is None or f"{pieces[left]}{pieces[right]}" != joined:
            continue
        pieces[left], pieces[right] = joined, None
        after = following.pop(right, None)
        following.pop(left, None)
        if after is not None:
            following[left], before[after] = after, left
        offer(before.get(left), left)
        offer(left, after)
    found = []
    for piece in pieces:
        if piece is not None:
            found += [ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return found
