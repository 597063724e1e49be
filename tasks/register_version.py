"""Register the package with its verdict; only a candidate that passed becomes the challenger."""

from collections.abc import Mapping

from prefect import task

from registry.artifacts import Artifact
from registry.models import RegisteredVersion
from registry.models import register_version as register


@task
def register_version(
    run_id: str, package: Artifact, model_name: str, passed: bool, tags: Mapping[str, str]
) -> RegisteredVersion:
    """The version that holds ``package``; the same package again keeps its version."""
    return register(run_id, package.verify(), model_name=model_name, verdict=passed, tags=tags)
