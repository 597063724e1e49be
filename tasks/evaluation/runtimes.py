"""Everything that a MODEL on the command line can mean, opened as one interface."""

from pathlib import Path

from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import FREE, MINIMUM_CONTEXT, Decoding
from deployment.runtimes.opened import open_served
from deployment.runtimes.prediction import Runtime
from registry.errors import UsageError
from tasks.checkpoints.folders import is_model_folder


def open_runtime(
    spec: str,
    *,
    prompt: Prompt,
    max_new_tokens: int = 256,
    parallel: int = 8,
    threads: int = 1,
    context: int = MINIMUM_CONTEXT,
    decoding: Decoding = FREE,
    temperature: float = 0.0,
) -> Runtime:
    """The runtime for a Hugging Face or adapter folder, a ``.gguf`` file, ``ollama:NAME`` or ``http://HOST``, which is
    any OpenAI-compatible server.

    ``parallel`` answers are made at a time, held to ``decoding``. ``prompt`` is for folders and files, since servers
    bring their own; ``threads`` are for ``.gguf`` files, ``context`` for those and folders: the tokens that prompt and
    answer may take together. Raises UsageError for anything else, and for a folder whose answers are to be held.
    """
    path = Path(spec)
    if is_model_folder(path):
        if decoding is not FREE:
            raise UsageError(f"{spec} is a folder, which answers freely alone; convert it to a .gguf file first.")
        # Torch and transformers take seconds to import, which a GGUF file or a server does not need.
        from tasks.evaluation.hf_runtime import HuggingFaceRuntime

        return HuggingFaceRuntime(
            path,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            context=context,
            batch_size=parallel,
            temperature=temperature,
        )
    if spec and path.is_dir():
        raise UsageError(f"MODEL {spec!r} holds no config.json and is no package; give the folder of a model.")
    return open_served(
        spec,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        parallel=parallel,
        threads=threads,
        context=context,
        decoding=decoding,
        temperature=temperature,
    )
