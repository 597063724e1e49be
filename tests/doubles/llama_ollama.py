"""The language model of a :class:`FakeOllama` that is none of a double: llama.cpp, asked as Ollama asks it."""

from typing import Any

from fake_ollama import Answer, Said
from schema_grammar import schema_grammar

from deployment.runtimes.llama_server import LlamaServer

_SAMPLING = ("temperature", "top_k", "repeat_penalty", "stop", "seed")
_TOLD = ("token", "logprob", "bytes")  # of a token


def answer_of(server: LlamaServer) -> Answer:
    """The answers of ``server``'s file: to the prompt as text, held to the ``format`` of the request."""

    def answer(prompt: str, options: dict[str, Any]) -> Said:
        body = {
            "prompt": prompt,
            "n_predict": options["num_predict"],
            "n_probs": options.get("top_logprobs", 0),
            "cache_prompt": False,
            **{name: options[name] for name in _SAMPLING if name in options},
        }
        if "format" in options:
            body["grammar"] = schema_grammar(options["format"])
        reply = server._post("/completion", body)
        tokens = reply.get("completion_probabilities", ())
        return Said(reply["content"], [_told(token) for token in tokens])

    return answer


def _told(token: dict[str, Any]) -> dict[str, Any]:
    told = {name: token[name] for name in _TOLD}
    if "top_logprobs" in token:
        told["top_logprobs"] = [_told(other) for other in token["top_logprobs"]]
    return told
