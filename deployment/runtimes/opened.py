"""A file or a server that answers commands, opened by its name."""

from pathlib import Path
from typing import Any

from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import ANSWER_SECONDS, FREE, MINIMUM_CONTEXT, Decoding
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.prediction import Served
from deployment.runtimes.servers import OllamaRuntime, OpenAiRuntime
from registry.errors import UsageError


def open_served(
    spec: str,
    *,
    prompt: Prompt | None,
    max_new_tokens: int = 256,
    parallel: int = 8,
    threads: int = 1,
    context: int = MINIMUM_CONTEXT,
    decoding: Decoding = FREE,
    answer_seconds: float = ANSWER_SECONDS,
    temperature: float = 0.0,
) -> Served:
    """The runtime for a ``.gguf`` file, ``ollama:NAME`` or ``http://HOST``, any OpenAI-compatible server.

    ``parallel`` answers are made at a time, held to ``decoding``, greedily or drawn at ``temperature``. ``prompt``,
    ``threads`` and ``context``, the tokens that prompt and answer may take together, are for files, since servers bring
    their own. An answer is given up after ``answer_seconds``, or a server's own bound where that is less. Raises
    UsageError for anything else.
    """
    asked: dict[str, Any] = {
        "parallel": parallel,
        "decoding": decoding,
        "answer_seconds": answer_seconds,
        "temperature": temperature,
    }
    if spec.startswith(("http://", "https://")):
        return OpenAiRuntime(spec, **asked)
    if spec.startswith("ollama:"):
        if spec == "ollama:":
            raise UsageError("MODEL 'ollama:' names no model; write ollama:NAME.")
        return OllamaRuntime(spec.removeprefix("ollama:"), **asked)
    path = Path(spec)
    if path.suffix != ".gguf":
        fault = "is a folder, but no package" if path.is_dir() else "is neither a folder nor a .gguf file"
        raise UsageError(
            f"MODEL {spec!r} {fault}; give a package's folder, a .gguf file, models:/NAME@ALIAS, ollama:NAME or "
            "http://HOST."
        )
    return LlamaServer(
        path,
        prompt=prompt,
        threads=threads,
        slots=parallel,
        context=context,
        max_new_tokens=max_new_tokens,
        decoding=decoding,
        answer_seconds=answer_seconds,
        temperature=temperature,
    )
