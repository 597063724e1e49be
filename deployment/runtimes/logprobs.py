"""How likely a model found the tokens of its answer, as llama.cpp, Ollama and OpenAI's protocol tell it alike."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LIKELIEST = 20  # tokens of each place, the most that OpenAI's protocol gives


class TokenLogprobs(NamedTuple):
    """A token of an answer, and the likeliest ones of its place, with natural logarithms of their probabilities."""

    text: bytes
    logprob: float
    likeliest: tuple[tuple[bytes, float], ...]


def token_logprobs(told: Sequence[Mapping[str, Any]] | None) -> tuple[TokenLogprobs, ...]:
    """What a server told of each token, in their order; nothing where it told nothing, or something else."""
    try:
        return tuple(
            TokenLogprobs(*_token(item), likeliest=tuple(_token(other) for other in item.get("top_logprobs") or ()))
            for item in told or ()
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _token(item: Mapping[str, Any]) -> tuple[bytes, float]:
    spelled = item.get("bytes")
    return item["token"].encode() if spelled is None else bytes(spelled), float(item["logprob"])
