"""Whether a checkpoint is all of a model and nothing else: random or forgotten weights must never be scored."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from registry.errors import UsageError

Shape = tuple[int, ...]


def require_tensors(folder: Path, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raises UsageError unless ``found`` are the tensors that config.json asks for, in their shapes."""
    require_names(folder, missing=expected.keys() - found.keys(), unexpected=found.keys() - expected.keys())
    for name, shape in expected.items():
        if found[name] != shape:
            raise UsageError(f"{folder} has {name} of shape {found[name]} where its config.json asks for {shape}.")


def require_names(folder: Path, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises UsageError for any name in either."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    lacks = f"lacks {_some(missing)}"
    holds = f"holds {_some(unexpected)}, which its config.json does not ask for"
    if missing or unexpected:
        faults = [fault for fault, names in ((lacks, missing), (holds, unexpected)) if names]
        raise UsageError(f"{folder} {' and '.join(faults)}; save or fetch it again.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else ""
