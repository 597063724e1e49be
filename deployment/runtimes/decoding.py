"""How answers are made: greedily, and within a context that holds the whole prompt and the whole answer.

Left alone, Ollama cuts a prompt beyond its context without a word, and an answer that reaches the end can abort it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from deployment.runtimes.logprobs import TokenLogprobs
from registry.errors import UsageError

# A client's temperature goes over the Modelfile's, and Ollama's OpenAI endpoint sets 1.0 where the client gives none;
# the likeliest token alone is greedy at any temperature. Ollama's own penalty of 1.1 punishes JSON for its quotes.
GREEDY = {"temperature": 0, "top_k": 1, "repeat_penalty": 1}
SEED = 1  # of answers that are sampled
MINIMUM_CONTEXT = 1024  # tokens; 18 MB of memory on the 270M
ANSWER_SECONDS = 600.0  # that an answer may take at the most
_ROOM = 2  # what devices are told may be twice as long as the longest command that was collected, and so its answer
_STEP = 256  # llama.cpp rounds a context up to a multiple
SHOWN = 40  # characters of a command


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """Bounds of a device's memory and patience, in tokens: prompt and answer together, and the answer."""

    num_ctx: int = MINIMUM_CONTEXT
    num_predict: int = 256

    def refusal(self, command: str, tokens: int) -> str:
        """Why a command whose prompt takes ``tokens`` is not asked; empty where prompt and answer fit."""
        excess = tokens + max(1, self.num_predict) - self.num_ctx
        if excess <= 0:
            return ""
        shown = command if len(command) <= SHOWN else f"{command[:SHOWN]}…"
        answer = f" and an answer up to {self.num_predict:,}" if self.num_predict else ""
        return (
            f"The command {shown!r} is {excess:,} token{'s' if excess > 1 else ''} too long: its prompt takes "
            f"{tokens:,}{answer} of a context of {self.num_ctx:,}; shorten it or raise the context."
        )


def sampling(temperature: float) -> dict[str, float]:
    """What a request asks so that answers are drawn at ``temperature``, the same at each run; nothing at 0."""
    if not temperature:
        return {}
    return {"temperature": temperature, "top_k": 0, "top_p": 1, "min_p": 0, "repeat_penalty": 1, "seed": SEED}


class Mode(StrEnum):
    """How far an answer is held."""

    FREE = "free"  # not at all, as `ollama run` answers
    SCHEMA = "schema"  # to the form of an answer, with any values
    GROUNDED = "grounded"  # to the form, and to values that stand in the command


class Decoding(Protocol):
    """What an answer is held to, as each server takes it, and what becomes of the text then."""

    @property
    def logprobs(self) -> int:
        """How many of the likeliest tokens of each place the server is to tell; 0 for none, which takes no time."""
        ...

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        """The fields of a request to llama.cpp that hold the answer."""
        ...

    def json_schema(self, command: str) -> Mapping[str, Any] | None:
        """The same for a server that takes a JSON Schema; None where the answer is free."""
        ...

    def finished(self, command: str, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> str:
        """The answer to ``command`` in the text that came back, and in what was told of its tokens."""
        ...


class Free:
    """Answers as the model gives them."""

    logprobs = 0

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        return {}

    def json_schema(self, command: str) -> None:
        return None

    def finished(self, command: str, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> str:
        return text


FREE = Free()


@dataclass(frozen=True, kw_only=True)
class Longest:
    """The longest prompt and the longest answer of a snapshot, and what the model was made for, in its tokens."""

    prompt: int
    answer: int  # with the token that ends it
    context: int

    def limits(self, *, context: int, max_new_tokens: int) -> AnswerLimits:
        """With room for longer ones, and at least ``context`` and ``max_new_tokens``, as far as the model goes.

        Raises UsageError where the model goes less far than the longest command and the longest answer.
        """
        num_predict = min(max(max_new_tokens, _ROOM * self.answer), self.context - self.prompt)
        if num_predict < self.answer:
            raise UsageError(
                f"the longest command takes {self.prompt:,} tokens and the longest answer {self.answer:,}, the model "
                f"was made for {self.context:,} together; shorten the records or take another base."
            )
        wanted = -(-(_ROOM * self.prompt + num_predict) // _STEP) * _STEP
        return AnswerLimits(num_ctx=min(max(context, wanted), self.context), num_predict=num_predict)
