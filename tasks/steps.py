"""Running a step once: its result is kept under a key of input digests, recipe, code and library versions.

Prefect's own source key hashes the task function alone, so an edit in the code that it calls would go unseen; here
the code is what :mod:`registry.code` finds behind it. Prefect's place for results depends on the server, so a result
lies in its step's folder: a shell and a worker share it.
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun
from prefect.task_engine import TaskRunTimeoutError
from pydantic import BaseModel

from registry.artifacts import Artifact
from registry.code import code_behind
from registry.errors import ServiceUnavailable
from registry.store.snapshots import Snapshot

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)
_SECONDS_A_DAY = 86_400
_PAUSES = (2.0, 8.0)  # seconds before a service is tried again; its client has waited already


class StepContext(NamedTuple):
    """Where a step writes and under which MLflow run it reports; no part of its key."""

    folder: Path
    run_id: str


@dataclass(frozen=True)
class Step(Generic[P, R]):
    """A function that :class:`Steps` runs once for its inputs, which are what it takes after the context."""

    function: Callable[Concatenate[StepContext, P], R]
    title: str

    @property
    def name(self) -> str:
        """What the folders of its results are called by."""
        return self.function.__name__

    def titled(self, title: str) -> "Step[P, R]":
        """The same step under a title that says what it runs on, where it runs more than once."""
        return replace(self, title=title)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """24 hex digits of the digest of everything that decides the result."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        bound.apply_defaults()
        _, *inputs = bound.arguments.items()
        parts = {
            "inputs": {name: _identity(value) for name, value in inputs},
            "code": code_behind(self.function).key(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def task(self, folder: Path) -> Task[..., R]:
        """The Prefect task whose result is kept in ``folder``, which its key names."""
        return Task(
            self.function,
            persist_result=True,
            result_serializer="json",
            result_storage=folder,
            cache_key_fn=lambda _, parameters: folder.name,
            task_run_name=self.title,
        )


def step(function: Callable[Concatenate[StepContext, P], R]) -> Step[P, R]:
    """Make a function a step. Its own definitions, and all code that they use, are part of the key."""
    return Step(function, title=_spoken(function))


def outside(*, minutes: float) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function that needs a service a Prefect task, tried again where the service is out of reach.

    Nothing else is tried again. After ``minutes`` a try is ended, with ServiceUnavailable.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        title = _spoken(function)
        task = Task(
            function,
            task_run_name=title,
            retries=len(_PAUSES),
            retry_delay_seconds=list(_PAUSES),
            retry_condition_fn=_is_out_of_reach,
            timeout_seconds=minutes * 60,
        )

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return task(*args, **kwargs)
            except TaskRunTimeoutError as error:
                raise ServiceUnavailable(
                    f"{title} came to no end within {minutes:g} minutes; look at the network and the service, then run "
                    "the command again: it goes on from what is done."
                ) from error

        return run

    return decorate


def _spoken(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", " ")


def _is_out_of_reach(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    if not isinstance(error, ServiceUnavailable):
        return False
    logger.warning("%s Trying again.", error)
    return True


class Steps:
    """Runs the steps of one retrain; remembers what each took and which results were there already."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self.reused: list[str] = []
        self.seconds: dict[str, float] = {}

    def run(self, step: Step[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``step`` for its inputs, from the cache where folder and result are both there."""
        name, started = step.title.replace(" ", "_"), time.monotonic()
        logger.info("%s", step.title)
        folder = self._folder / f"{step.name}-{step.key(*args, **kwargs)}"
        prefect_task = step.task(folder)
        state = cast("State[R]", prefect_task(StepContext(folder, self._run_id), *args, return_state=True, **kwargs))
        if state.name == "Cached":
            self.reused.append(name)
        self.seconds[name] = round(time.monotonic() - started, 2)
        result = _inside(folder, state.result())
        os.utime(folder)  # the time of its last use
        return result

    def prune(self, days: int) -> None:
        """Remove what no run has used for ``days``: a retrain of a real model leaves gigabytes."""
        for folder in self._folder.iterdir():
            if time.time() - folder.stat().st_mtime > days * _SECONDS_A_DAY:
                logger.info("removing %s, unused for %d days", folder.name, days)
                shutil.rmtree(folder, ignore_errors=True)


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
