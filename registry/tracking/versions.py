"""Versions of a registered model: finding them and fetching their packages."""

import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.artifacts import Artifact, verify_checksums
from registry.errors import UsageError
from registry.files import atomic_directory
from registry.names import require_alias, require_name
from registry.tracking.client import connection, store_errors

PASSED, BLOCKED = "passed", "blocked"
VERDICT_TAG = "gate_verdict"
PACKAGE_TAG = "package_sha256"
GGUF_TAG = "gguf_sha256"
PACKAGE_FOLDER = "package"
_NO_VERSION = 1 << 31  # what no database column of MLflow's counts up to


class RegisteredVersion(BaseModel):
    """A version of a registered model, as the registry holds it now."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str | None
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every gate passed; a version without a verdict did not."""
        return self.tags.get(VERDICT_TAG) == PASSED


@store_errors()
def find(model_name: str, alias: str) -> RegisteredVersion | None:
    """The version behind an alias, or None where the model or the alias does not exist yet."""
    number = aliases_of(model_name).get(alias)
    return None if number is None else _version(model_name, number)


@store_errors()
def resolve(model_name: str, alias_or_version: str | int) -> RegisteredVersion:
    """The version with this number or alias. Raises UsageError where there is none."""
    wanted = require_alias(str(alias_or_version))
    if wanted.isdecimal():
        if exists(model_name, wanted):
            return _version(model_name, wanted)
        raise UsageError(f"{model_name} has no version {wanted}; gemmill retrain registers one.")
    found = find(model_name, wanted)
    if found is None:
        raise UsageError(
            f"{model_name} has no version with the alias {wanted!r}; gemmill promote VERSION sets champion."
        )
    return found


@store_errors()
def versions(model_name: str) -> list[RegisteredVersion]:
    """Every version of the model, newest first. Raises UsageError where there is no such model."""
    client = connection().client
    if not client.search_registered_models(f"name = '{model_name}'", max_results=1):
        raise UsageError(f"{model_name} has no version yet; gemmill retrain registers one.")
    found = client.search_model_versions(f"name = '{model_name}'", order_by=["version_number DESC"])
    return [_version(model_name, str(version.version)) for version in found]


def exists(model_name: str, number: str) -> bool:
    """Whether the model has this version; a person can delete one in the MLflow UI."""
    require_name(model_name, "model name")
    wanted = f"name = '{model_name}' and version_number = {int(number)}"
    return int(number) < _NO_VERSION and bool(connection().client.search_model_versions(wanted))


def aliases_of(model_name: str) -> dict[str, str]:
    """Alias -> version number; empty where the model does not exist."""
    require_name(model_name, "model name")
    found = connection().client.search_registered_models(f"name = '{model_name}'", max_results=1)
    return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}


def _version(name: str, number: str) -> RegisteredVersion:
    client = connection().client
    version = client.get_model_version(name, number)
    model_id = (version.source or "").removeprefix("models:/")
    model = client.get_logged_model(model_id) if model_id.startswith("m-") else None
    return RegisteredVersion(
        name=name,
        version=int(version.version),
        aliases=tuple(sorted(version.aliases)),
        run_id=version.run_id or None,
        tags=version.tags,
        metrics={metric.key: metric.value for metric in (model.metrics or [] if model else [])},
    )


@store_errors()
def download(version: RegisteredVersion, dest: Path) -> Path:
    """Put the version's package, verified, at ``dest`` and return it; what is there already is not fetched.

    Raises UsageError where the package is not the one that was registered; nothing is left at ``dest`` then.
    """
    from mlflow.artifacts import download_artifacts

    if dest.is_dir() and Artifact.of("package", dest).sha256 == version.tags.get(PACKAGE_TAG):
        return dest
    uri = connection().client.get_model_version_download_uri(version.name, str(version.version))
    with atomic_directory(dest) as package, tempfile.TemporaryDirectory(dir=package.parent) as folder:
        fetched = download_artifacts(
            artifact_uri=f"{uri}/{PACKAGE_FOLDER}", dst_path=folder, tracking_uri=connection().uri
        )
        for path in Path(fetched).iterdir():
            path.rename(package / path.name)  # beside it, since TMPDIR can be another file system
        _require_registered(version, package)
    return dest


def _require_registered(version: RegisteredVersion, package: Path) -> None:
    files = verify_checksums(package)
    found = {
        GGUF_TAG: next((digest for name, digest in files.items() if name.endswith(".gguf")), None),
        PACKAGE_TAG: Artifact.of("package", package).sha256,
    }
    for tag, digest in found.items():
        if digest is None or digest != version.tags.get(tag):
            raise UsageError(
                f"{version.name} version {version.version}: the registry's tag {tag} says "
                f"{version.tags.get(tag, 'nothing')}, its package has {digest}; register the package again."
            )
