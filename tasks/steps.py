"""Running a step once: its result is kept under a key of input digests, recipe, code and library versions.

Prefect's own source key hashes the task function alone, so an edit in the code that it calls would go unseen. Its own
place for results depends on the server, so a result lies in its step's folder: a shell and a worker share it.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from prefect import Task
from pydantic import BaseModel

from registry.artifacts import Artifact, code_digest
from registry.snapshots import Snapshot

logger = logging.getLogger(__name__)
_LIBRARIES = (
    "accelerate", "bitsandbytes", "gguf", "great-expectations", "numpy", "peft", "sentencepiece", "tokenizers", "torch",
    "transformers", "wordfreq", "xllamacpp",
)  # fmt: skip
_SECONDS_A_DAY = 86_400
_FILES_OF: dict[str, tuple[str, ...]] = {}


class Place(NamedTuple):
    """Where a step writes and under which MLflow run it reports; no part of its key."""

    folder: Path
    run_id: str


def step(*code: str) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """Make a function a Prefect task that is cached by :class:`Steps`.

    Args:
        code: folders and files, from the repository's root, whose sources are part of the key.
    """

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        made = Task(
            function,
            persist_result=True,
            result_serializer="json",
            cache_key_fn=lambda _, parameters: parameters["place"].folder.name,
            task_run_name=function.__name__,
        )
        _FILES_OF[made.name] = code
        return made

    return decorate


class Steps:
    """Runs the steps of one retrain; remembers what each took and which results were there already."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self.reused: list[str] = []
        self.seconds: dict[str, float] = {}

    def run(self, step: Task[..., Any], *, title: str | None = None, **inputs: Any) -> Any:
        """The result of ``step`` for ``inputs``, from the cache where folder and result are both there.

        Args:
            title: what to call the step in reports where it runs more than once.
        """
        title, started = title or step.name, time.monotonic()
        logger.info("%s", title.replace("_", " "))
        folder = self._folder / f"{step.name}-{step_key(step.name, inputs)}"
        state = step.with_options(result_storage=folder)(**inputs, place=Place(folder, self._run_id), return_state=True)
        if state.name == "Cached":
            self.reused.append(title)
        self.seconds[title] = round(time.monotonic() - started, 2)
        result = _inside(folder, state.result())
        os.utime(folder)  # the time of its last use
        return result

    def prune(self, days: int) -> None:
        """Remove what no run has used for ``days``: a retrain of a real model leaves gigabytes."""
        for folder in self._folder.iterdir():
            if time.time() - folder.stat().st_mtime > days * _SECONDS_A_DAY:
                logger.info("removing %s, unused for %d days", folder.name, days)
                shutil.rmtree(folder, ignore_errors=True)


def step_key(name: str, inputs: dict[str, Any]) -> str:
    """24 hex digits of the digest of everything that decides a step's result."""
    parts = {
        "inputs": {key: _identity(value) for key, value in inputs.items()},
        "code": code_digest(*_FILES_OF[name]),
        "libraries": {library: _version(library) for library in _LIBRARIES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _identity(value: Any) -> Any:
    """Artifacts and snapshots count by digest, so that a moved home does not train again."""
    if isinstance(value, Artifact | Snapshot):
        return value.sha256
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return value


def _inside(folder: Path, value: Any) -> Any:
    """A result with its paths in ``folder``: a kept one names the place where the home was when it was made."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return value.model_copy(update={name: _inside(folder, getattr(value, name)) for name in fields})
    if isinstance(value, Path) and folder.name in value.parts:
        return folder.joinpath(*value.parts[value.parts.index(folder.name) + 1 :])
    return value


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
