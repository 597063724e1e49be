"""The model registry: runs, versions of packages, and the way from one champion to the next.

MLflow keeps them. Devices are served by whatever the alias ``champion`` points to, whether gemmill or a
person in the MLflow UI moved it there. This module and registry.tracking, which it stands before, alone import mlflow.
"""

import json
from datetime import UTC, datetime
from typing import Any

from registry.errors import GateBlocked, UsageError
from registry.home import Home
from registry.names import require_name
from registry.tracking.client import connect, connection, store_errors
from registry.tracking.registration import CHALLENGER, CHAMPION, register_version
from registry.tracking.runs import RunLog, log_snapshot, retrain_run, stage_run
from registry.tracking.versions import (
    VERDICT_TAG,
    RegisteredVersion,
    aliases_of,
    download,
    exists,
    find,
    resolve,
    versions,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS_CHAMPION",
    "RegisteredVersion",
    "RunLog",
    "alias_history",
    "connect",
    "download",
    "find",
    "local_model",
    "log_snapshot",
    "named_version",
    "note_promotion_by_hand",
    "promote",
    "register_version",
    "resolve",
    "retrain_run",
    "rollback",
    "stage_run",
    "versions",
]

PREVIOUS_CHAMPION = "previous_champion"
_HISTORY_TAG = "alias_history"
_HISTORY_LENGTH = 50

_PREFIX = "models:/"


def promote(model_name: str, version: str | int) -> RegisteredVersion:
    """Make a version the champion; the champion so far becomes ``previous_champion``.

    Raises GateBlocked for a version whose gates did not pass. The alias that devices follow moves last.
    """
    candidate = resolve(model_name, version)
    note_promotion_by_hand(model_name)
    _move_champion(model_name, candidate, "promote")
    return resolve(model_name, candidate.version)


def rollback(model_name: str) -> RegisteredVersion:
    """Swap ``champion`` and ``previous_champion``; a second rollback swaps back.

    Raises UsageError where there is no previous champion, GateBlocked where its gates did not pass.
    """
    note_promotion_by_hand(model_name)
    previous = find(model_name, PREVIOUS_CHAMPION)
    if previous is None:
        raise UsageError(f"{model_name} has no previous champion to roll back to.")
    _move_champion(model_name, previous, "rollback")
    return resolve(model_name, previous.version)


@store_errors()
def _move_champion(name: str, candidate: RegisteredVersion, action: str) -> None:
    if not candidate.passed:
        raise GateBlocked(
            f"{name} version {candidate.version} has the {VERDICT_TAG} {candidate.tags.get(VERDICT_TAG)!r}; "
            "only a version whose gates passed can become champion."
        )
    client = connection().client
    aliases = aliases_of(name)
    replaced, number = aliases.get(CHAMPION), str(candidate.version)
    if replaced == number:
        return
    if replaced is not None:
        client.set_registered_model_alias(name, PREVIOUS_CHAMPION, replaced)
    client.set_registered_model_alias(name, CHAMPION, number)
    if aliases.get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
    _note(name, action, number, replaced)


def _note(name: str, action: str, version: str, replaced: str | None) -> None:
    """MLflow forgets where an alias was, so the model carries the list of moves, newest last."""
    from mlflow.tracking.context.registry import resolve_tags

    client = connection().client
    move = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": resolve_tags()["mlflow.user"] if action != "by hand" else "unknown",
        "action": action,
        "version": int(version),
        "replaced": None if replaced is None else int(replaced),
    }
    client.set_model_version_tag(name, version, "champion_since", move["at"])
    client.set_model_version_tag(name, version, "champion_set_by", move["by"])
    history = [*alias_history(name), move][-_HISTORY_LENGTH:]
    client.set_registered_model_tag(name, _HISTORY_TAG, json.dumps(history))


@store_errors()
def alias_history(model_name: str) -> list[dict[str, Any]]:
    """Every noted move of ``champion``, oldest first: at, by, action, version, replaced."""
    require_name(model_name, "model name")
    found = connection().client.search_registered_models(f"name = '{model_name}'", max_results=1)
    return json.loads(found[0].tags.get(_HISTORY_TAG, "[]")) if found else []


@store_errors()
def note_promotion_by_hand(model_name: str) -> None:
    """Note a champion that was set in the MLflow UI, and keep the one before it for a rollback."""
    champion = aliases_of(model_name).get(CHAMPION)
    history = alias_history(model_name)
    before = str(history[-1]["version"]) if history else None
    if champion is None or champion == before:
        return
    if before is not None and exists(model_name, before):
        connection().client.set_registered_model_alias(model_name, PREVIOUS_CHAMPION, before)
    _note(model_name, "by hand", champion, before)


def named_version(model: str, home: Home) -> RegisteredVersion | None:
    """The version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now; None for any other model.

    Raises as :func:`local_model` does.
    """
    if not model.startswith(_PREFIX):
        return None
    name, _, wanted = model.removeprefix(_PREFIX).replace("@", "/").partition("/")
    if not name or not wanted:
        raise UsageError(f"{model!r} is no model of the registry; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    connect(home.path)
    return resolve(name, wanted)


def local_model(model: str, home: Home) -> str:
    """``model``, where it is ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` the folder of its package.

    Raises UsageError for a model of the registry that there is not, ServiceUnavailable where MLflow does not answer.
    """
    version = named_version(model, home)
    if version is None:
        return model
    return str(download(version, home.package(version.name, version.version)))
