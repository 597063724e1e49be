"""Bring a base to this machine as a Hugging Face folder, once."""

import hashlib
import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from registry.errors import UsageError
from registry.files import file_sha256
from registry.records import LabelSet, Record
from tasks.bases.spec import FolderBase, GgufBase, HubBase, ScratchBase, WeightsPackageBase
from tasks.checkpoints.files import read_json
from tasks.checkpoints.folders import CONFIG_FILE
from tasks.checkpoints.hub import hub_folder
from tasks.checkpoints.source import require_described
from tasks.gguf.reader import import_gguf

logger = logging.getLogger(__name__)
_TERMS = "data/GEMMA_TERMS.html"  # in a weights package

AnyBase = ScratchBase | WeightsPackageBase | GgufBase | FolderBase | HubBase


def resolve_base(base: AnyBase, cache: Path, *, records: Sequence[Record], labels: LabelSet, key: str) -> Path:
    """The folder of ``base``; what has to be made is made under ``cache``, named by content, and found there again.

    Args:
        records, labels: what the tokenizer of a scratch base is trained on.
        key: digest of those records, part of the folder's name.

    Raises:
        UsageError: the base is missing, not what it should be, or its licence was not accepted.
        ServiceUnavailable: the hub is out of reach and the model is not in the cache.
    """
    match base:
        case ScratchBase():
            digest = hashlib.sha256(f"{base.model_dump_json()}{key}".encode()).hexdigest()
            folder = cache / f"scratch-{digest[:16]}"
            if not folder.exists():
                from tasks.bases.scratch import build_scratch_base  # transformers' models take seconds to import

                build_scratch_base(base, records, labels, folder)
            return folder
        case WeightsPackageBase():
            return _from_package(base, cache)
        case GgufBase():
            if not base.path.is_file():
                raise UsageError(f"the base {base.path} does not exist; name a GGUF file.")
            return _from_gguf(base.path, file_sha256(base.path), cache)
        case FolderBase():
            if not (base.path / CONFIG_FILE).is_file():
                raise UsageError(f"the base {base.path} has no config.json; name a Hugging Face folder.")
            return _whole(base.path)
        case HubBase():
            return _whole(hub_folder(base.id, base.revision))


def licence_terms(base: AnyBase) -> Path | None:
    """The copy of its licence that an installed weights package holds; None for every other base."""
    if not isinstance(base, WeightsPackageBase):
        return None
    folder = _package_folder(base)
    terms = folder / _TERMS if folder else None
    return terms if terms and terms.is_file() else None


def _whole(folder: Path) -> Path:
    """``folder``, whose weights are looked at now rather than by the training."""
    require_described(folder, read_json(folder / CONFIG_FILE))
    return folder


def _from_gguf(gguf: Path, sha256: str, cache: Path) -> Path:
    folder = cache / f"gguf-{sha256[:16]}"
    if not folder.exists():
        logger.info("dequantising %s into %s", gguf.name, folder)
        import_gguf(gguf, folder)
    return folder


def _from_package(base: WeightsPackageBase, cache: Path) -> Path:
    folder = cache / f"gguf-{base.sha256[:16]}"
    if folder.exists():
        return folder
    try:
        installed = metadata.version(base.distribution)
    except metadata.PackageNotFoundError as error:
        raise UsageError(f"the weights package {base.distribution} is not installed; run {base.install}.") from error
    if installed != base.version:
        raise UsageError(f"{base.distribution} is {installed}, the profile pins {base.version}; run {base.install}.")
    if base.file and (package := _package_folder(base)):
        return _checked(base, package / base.file, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        gguf = Path(scratch) / "base.gguf"
        importlib.import_module(_module(base)).assemble(gguf)
        return _checked(base, gguf, cache)


def _checked(base: WeightsPackageBase, gguf: Path, cache: Path) -> Path:
    """The folder of a package's file, once its digest is the profile's."""
    found = file_sha256(gguf) if gguf.is_file() else None
    if found != base.sha256:
        what = f"a file of SHA-256 {found[:12]}…" if found else f"no file {base.file}"
        raise UsageError(
            f"{base.distribution} holds {what}, the profile pins {base.sha256[:12]}…; install the package again."
        )
    return _from_gguf(gguf, base.sha256, cache)


def _package_folder(base: WeightsPackageBase) -> Path | None:
    """Where the package lies; it is not imported, as that may need what it requires."""
    package = importlib.util.find_spec(_module(base))
    return Path(package.origin).parent if package and package.origin else None


def _module(base: WeightsPackageBase) -> str:
    return base.distribution.replace("-", "_")
