"""llama.cpp's own server for a GGUF file, in a child process: what ships is what gets measured.

The child matters: a failed GGML assertion aborts its process, and why a file does not load is only printed.
Prompts go in as token ids: the turn around a command is parsed for control tokens, the command never is.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

import httpx

from deployment.prompts.prompt import Message, Prompt
from deployment.prompts.turns import Turns
from deployment.runtimes.decoding import ANSWER_SECONDS, FREE, AnswerLimits, Decoding, sampling
from deployment.runtimes.lines import lines_of
from deployment.runtimes.llama_process import LlamaProcess
from deployment.runtimes.logprobs import TokenLogprobs, token_logprobs
from deployment.runtimes.prediction import Prediction, answer_concurrently
from registry.errors import ServiceUnavailable, UsageError

_TEXTS_PER_REQUEST = 500
_IDLE_SECONDS = 2.0  # of a connection; llama.cpp closes it after 5, and what is sent at that moment is lost
_CERTAIN = 1e6  # added to a logit: far above any other
_NEVER = -1e4  # far below any other, and yet the one that ends an answer is taken where a grammar leaves no other
_EVENT = b"data: "
_CONTROL_BEGINS = "<["  # how the names of control tokens begin
_LOGPROBS = "completion_probabilities"
# Explicit, since a GGUF may carry sampling defaults of its own; no prompt cache, so that an answer depends on
# nothing that was asked before. The likeliest token is taken first, or all others would be weighed where probabilities
# are told, which takes as long as they.
_GREEDY = {"temperature": 0.0, "top_k": 1, "samplers": ["top_k", "temperature"], "cache_prompt": False}


class LlamaServer:
    """A GGUF file, with a LoRA ``adapter`` over it where one is given, served on 127.0.0.1 in the ``with`` block.

    Without ``prompt``, it is the one of the turn format that the file has the tokens of, without an instruction.

    The KV cache holds ``slots * context`` tokens; a command is not asked where prompt and ``max_new_tokens`` exceed
    ``context``; an answer that ``decoding`` holds to a form may take all that is left of it. Answers are greedy, or
    sampled at ``temperature``, which a seed makes the same each time. ``parameters`` are
    llama.cpp's own, by their names in xllamacpp's ``CommonParams``, such as ``speculative.ngram_mod.n_match``. Raises
    UsageError where llama.cpp refuses the file, ServiceUnavailable where it dies later.

    One slot gives the same answers every time, as a device does. With more, rounding depends on which prompts
    share a batch, so a near tie between two tokens can fall either way.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        prompt: Prompt | None,
        threads: int = 1,
        slots: int = 8,
        context: int = 1024,
        max_new_tokens: int = 256,
        decoding: Decoding = FREE,
        temperature: float = 0.0,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        adapter: Path | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        for path in (gguf, adapter):
            if path and not path.is_file():
                raise UsageError(f"{path} is not a file; give the path of a GGUF file.")
        self._gguf = gguf
        self._told_prompt = prompt
        self._threads = threads
        self._slots = slots
        self._limits = AnswerLimits(num_ctx=context, num_predict=max_new_tokens)
        self._decoding = decoding
        self._sampling = {**_GREEDY, **sampling(temperature)}
        self._parameters = parameters
        self._adapter = adapter
        self._answer_seconds = answer_seconds

    def __enter__(self) -> Self:
        options = {
            "adapter": str(self._adapter) if self._adapter else "",
            "threads": self._threads,
            "slots": self._slots,
            "context": self._limits.num_ctx,
            "parameters": dict(self._parameters),
        }
        self.process = LlamaProcess(self._gguf, options)
        self._client = httpx.Client(
            base_url=self.process.address,
            timeout=self._answer_seconds,
            limits=httpx.Limits(keepalive_expiry=_IDLE_SECONDS),
            trust_env=False,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.process.stop()

    @property
    def takes_grammar(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        """Of the child."""
        return self.process.pid

    def responds(self, seconds: float) -> bool:
        """Whether the child's loop turns: it tells something of its own within ``seconds``, however busy its slots."""
        try:
            return self._client.get("/lora-adapters", timeout=seconds).is_success
        except httpx.HTTPError:
            return False

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """The answers, as many at a time as there are slots."""
        predictions = answer_concurrently(
            self._answer_one, commands, workers=self._slots, description=f"asking {self._gguf.name}"
        )
        if self._decoding is not FREE:
            self._refuse_unused_constraint()
        return predictions

    def tokenize_prompt(self, command: str) -> list[int]:
        """The ids that :meth:`answer` sends: one BOS where the model has one, the turn's control tokens, and
        the command as plain text."""
        opening, closing = self._turn_ids
        return [*opening, *self.tokenize(self._prompt.plain_text(command)), *closing]

    def chat_template_ids(self, chat: Sequence[Message]) -> list[int]:
        """The ids that the server's chat endpoint makes of a chat with the template inside the file."""
        text = self._post("/apply-template", {"messages": [asdict(message) for message in chat]})["prompt"]
        return self.tokenize(text, add_bos=True, parse_special=True)

    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """The ids of ``text``; with ``parse_special`` the control tokens written in it are recognised."""
        body = {"content": text, "add_special": add_bos, "parse_special": parse_special}
        return self._post("/tokenize", body)["tokens"]

    def tokenize_all(self, texts: Sequence[str], separator: int) -> list[list[int]]:
        """:meth:`tokenize` of every text, many in one request.

        ``separator`` is a control token, which no text becomes, to tell their ids apart.
        """
        found: list[list[int]] = []
        for start in range(0, len(texts), _TEXTS_PER_REQUEST):
            part = texts[start : start + _TEXTS_PER_REQUEST]
            content = [item for text in part for item in (text, separator)]
            ids = self._post("/tokenize", {"content": content, "add_special": False, "parse_special": False})["tokens"]
            ends = [place for place, id_ in enumerate(ids) if id_ == separator]
            if len(ends) != len(part):
                raise UsageError(f"a text became the control token {separator} in {self._gguf.name}.")
            found += [ids[begin + 1 : end] for begin, end in pairwise([-1, *ends])]
        return found

    def next_token_logprobs(self, ids: Sequence[int], n: int | None = None) -> dict[int, float]:
        """Log-probabilities of the ``n`` likeliest tokens after ``ids``, likeliest first; None means all."""
        # The server holds back a token that is a part of a character, and what it knows of it; so another is sampled,
        # the last one again, which leaves the probabilities as they are.
        [first] = self._logprobs(ids, n, {"n_predict": 1, "logit_bias": [[ids[-1], _CERTAIN]]})
        return first

    def answer_logprobs(self, ids: Sequence[int], n: int | None = None, *, max_tokens: int) -> list[dict[int, float]]:
        """The same for every token of the greedy answer to ``ids``, whose tokens are the likeliest ones; the token that
        ends it is the last."""
        return self._logprobs(ids, n, {"n_predict": max_tokens})

    def _logprobs(self, ids: Sequence[int], n: int | None, options: Mapping[str, Any]) -> list[dict[int, float]]:
        body = {"prompt": list(ids), "n_probs": n or self._vocabulary_size, **options, **_GREEDY}
        found = self._post("/completion", body)[_LOGPROBS]
        return [{item["id"]: item["logprob"] for item in token["top_logprobs"]} for token in found]

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The parts of the answer's text as they come, and the prediction at the end."""
        ids = self.tokenize_prompt(command)
        if failure := self._limits.refusal(command, len(ids)):
            yield Prediction(text="", tokens=0, seconds=0.0, failure=failure)
            return
        started, text = time.perf_counter(), ""
        logprobs: tuple[TokenLogprobs, ...] = ()
        with (
            self._dies_with_a_reason("/completion"),
            self._client.stream("POST", "/completion", json={**self._asked(command, ids), "stream": True}) as response,
        ):
            if response.is_error:
                response.read()
                self._refuse(response)
            for line in lines_of(response):
                if not line.startswith(_EVENT):
                    continue
                event = json.loads(line.removeprefix(_EVENT))
                text += event["content"]
                logprobs += token_logprobs(event.get(_LOGPROBS))
                if event["stop"]:
                    yield self._prediction(command, {**event, "content": text}, logprobs, started)
                elif event["content"]:
                    yield event["content"]

    def _answer_one(self, command: str) -> Prediction:
        ids = self.tokenize_prompt(command)
        if failure := self._limits.refusal(command, len(ids)):
            return Prediction(text="", tokens=0, seconds=0.0, failure=failure)
        started = time.perf_counter()
        reply = self._post("/completion", self._asked(command, ids))
        return self._prediction(command, reply, token_logprobs(reply.get(_LOGPROBS)), started)

    def _asked(self, command: str, ids: Sequence[int]) -> dict[str, Any]:
        held = self._decoding is not FREE
        room = self._limits.num_ctx - len(ids) if held else self._limits.num_predict
        return {
            "prompt": list(ids),
            "logit_bias": [[id_, _NEVER] for id_ in self._control_in(command)] if held else [],
            "n_predict": room,
            "n_probs": self._decoding.logprobs,
            **self._sampling,
            **self._decoding.llama_cpp(command),
        }

    def _control_in(self, command: str) -> set[int]:
        """The control tokens whose names are written in ``command``: a grammar would take them for their names, which
        they do not become in the answer's text."""
        if not any(begin in command for begin in _CONTROL_BEGINS):
            return set()
        return {*self.tokenize(command, parse_special=True)} - {*self.tokenize(command)}

    def _prediction(
        self, command: str, reply: Mapping[str, Any], logprobs: tuple[TokenLogprobs, ...], started: float
    ) -> Prediction:
        broken_off = self._decoding is not FREE and reply["stop_type"] == "limit"
        return Prediction(
            text="" if broken_off else self._decoding.finished(command, reply["content"], logprobs),
            tokens=reply["tokens_predicted"],
            seconds=time.perf_counter() - started,
            failure="The answer did not end within the context." if broken_off else "",
            first_token=reply["timings"]["prompt_ms"] / 1000,
            logprobs=logprobs,
        )

    @cached_property
    def _prompt(self) -> Prompt:
        if self._told_prompt:
            return self._told_prompt
        for turns in Turns:
            if all(len(self.tokenize(token, parse_special=True)) == 1 for token in turns.form.control):
                return Prompt(turns=turns)
        raise UsageError(f"{self._gguf.name} has the tokens of no turn format that is known: {', '.join(Turns)}.")

    @cached_property
    def _turn_ids(self) -> tuple[list[int], list[int]]:
        for token in self._prompt.turns.form.control:
            if len(self.tokenize(token, parse_special=True)) != 1:
                raise UsageError(
                    f"{self._gguf.name} has no token {token}, with which the turn format {self._prompt.turns} is made."
                )
        return (
            self.tokenize(self._prompt.prefix, add_bos=True, parse_special=True),
            self.tokenize(self._prompt.suffix, parse_special=True),
        )

    @cached_property
    def _vocabulary_size(self) -> int:
        return self._call("GET", "/v1/models", None)["data"][0]["meta"]["n_vocab"]

    def _post(self, route: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", route, body)

    def _call(self, method: str, route: str, body: Mapping[str, Any] | None) -> Any:
        with self._dies_with_a_reason(route):
            response = self._client.request(method, route, json=body)
        if response.is_error:
            self._refuse(response)
        return response.json()

    @contextmanager
    def _dies_with_a_reason(self, route: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = self.process.reason() or f"{type(error).__name__} at {route}"
            raise ServiceUnavailable(f"llama.cpp stopped answering for {self._gguf}: {reason}.") from error

    def _refuse(self, response: httpx.Response) -> NoReturn:
        message = response.json()["error"]["message"]
        raise UsageError(f"llama.cpp refused a request to {self._gguf.name}: {message}.")

    def _refuse_unused_constraint(self) -> None:
        # The server logs a schema that it cannot compile and then answers without it.
        if match := re.search(r"failed to compile JSON schema: (.*)", self.process.log()):
            raise UsageError(f"llama.cpp cannot use the JSON schema: {match[1].strip()}.")
