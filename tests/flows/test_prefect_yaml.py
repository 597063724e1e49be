"""The deployments of prefect.yaml against the flows that they name."""

import asyncio
import importlib
import inspect
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.events import DeploymentEventTrigger
from prefect.server.schemas.schedules import CronSchedule

from flows.ingest import RETRAINING_DUE
from flows.settings import load_profile

_FILE = Path(__file__).parents[2] / "prefect.yaml"
_DEPLOYMENTS: dict[str, dict[str, Any]] = {
    deployment["name"]: deployment for deployment in yaml.safe_load(_FILE.read_text())["deployments"]
}
_every_deployment = pytest.mark.parametrize("name", _DEPLOYMENTS)


def _flow(name: str) -> Flow[..., Any]:
    module, _, function = _DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), function)


def _parameter_sets(name: str) -> list[dict[str, Any]]:
    """What the flow is run with: by hand or on schedule, and by each trigger over that."""
    deployment = _DEPLOYMENTS[name]
    by_hand = deployment.get("parameters", {})
    triggered = [trigger.get("parameters", {}) for trigger in deployment.get("triggers", [])]
    return [by_hand, *(by_hand | parameters for parameters in triggered)]


def test_the_three_flows_are_deployed() -> None:
    assert set(_DEPLOYMENTS) == {"ingest", "retrain", "deploy"}


@_every_deployment
def test_an_entrypoint_is_the_flow_of_that_name(name: str) -> None:
    flow = _flow(name)
    assert isinstance(flow, Flow)
    assert flow.name == name


@_every_deployment
def test_parameters_are_those_of_the_flow_function(name: str) -> None:
    flow = _flow(name)
    for parameters in _parameter_sets(name):
        assert parameters.keys() <= inspect.signature(flow.fn).parameters.keys()
        flow.validate_parameters(parameters)


def test_retraining_runs_once_a_week() -> None:
    [schedule] = _DEPLOYMENTS["retrain"]["schedules"]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    runs = asyncio.run(CronSchedule(**schedule).get_dates(5, start))
    assert [later - earlier for earlier, later in itertools.pairwise(runs)] == [timedelta(weeks=1)] * 4


def test_the_event_of_ingestion_starts_retraining_on_its_dataset() -> None:
    [trigger] = _DEPLOYMENTS["retrain"]["triggers"]
    parsed = DeploymentEventTrigger.model_validate(trigger)
    assert parsed.expect == {RETRAINING_DUE}
    assert parsed.parameters is not None
    assert parsed.parameters["dataset"] == "{{ event.payload.dataset }}"


def test_only_shipped_profiles_are_named() -> None:
    named = {parameters["profile"] for name in _DEPLOYMENTS for parameters in _parameter_sets(name)
             if "profile" in parameters}  # fmt: skip
    assert named
    for profile in named:
        load_profile(profile)
