"""The smallest file of a model that still answers as the largest does, found by measuring.

Which types a model bears cannot be told from its weights: training on the grid of one type makes that type exact and a
larger one no better. So the types are tried, the smallest file first, each as the GGUF that would ship, and the first
that passes is the smallest that does.
"""

import logging
import tempfile
from collections.abc import Callable
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from registry.errors import GateBlocked
from registry.files import require_writable
from tasks.checkpoints.source import open_source
from tasks.evaluation.metrics import Metrics
from tasks.gates.judge import Gate, judge_smaller
from tasks.gates.thresholds import Thresholds
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import ExportPlan, export_gguf, plan_export
from tasks.quant.types import QuantType

logger = logging.getLogger(__name__)

_TYPES = (QuantType.Q8_0, QuantType.Q5_0, QuantType.Q4_0)  # of one scale a block, in steps that show in a file's size
_MEGABYTE = 1_000_000


class Outcome(StrEnum):
    """What became of a pair of types."""

    CHOSEN = "chosen"
    FAILED = "failed"
    OVER_BUDGET = "over budget"
    REFERENCE = "reference"  # the largest, where a smaller one passed
    NOT_TRIED = "not tried"  # a smaller one passed, or nothing was measured yet


class TriedTypes(BaseModel):
    """One pair of types, the size of its file, and what was measured of it, if anything was."""

    model_config = ConfigDict(frozen=True)

    weights: QuantType
    embedding: QuantType
    bytes: int
    outcome: Outcome
    metrics: Metrics | None = None
    gates: tuple[Gate, ...] = ()

    @property
    def failed(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)


class TypeSearch(BaseModel):
    """All pairs of types of a model, by the size of their files; the last one's is the reference."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gemmill-type-search/1"] = "gemmill-type-search/1"
    model: str
    budget: int | None  # bytes
    types: tuple[TriedTypes, ...]

    @property
    def measured(self) -> tuple[TriedTypes, ...]:
        return tuple(tried for tried in self.types if tried.metrics)

    @property
    def over_budget(self) -> bool:
        """Whether even the smallest file is."""
        return self.types[0].outcome is Outcome.OVER_BUDGET

    @property
    def chosen(self) -> TriedTypes | None:
        return next((tried for tried in self.types if tried.outcome is Outcome.CHOSEN), None)

    def require(self) -> TriedTypes:
        """The types that were chosen. Raises GateBlocked where none were, saying how the largest allowed one failed."""
        if self.chosen:
            return self.chosen
        allowed = [tried for tried in self.types if tried.outcome is Outcome.FAILED]
        if not allowed:
            smallest = self.types[0]
            raise GateBlocked(
                f"the smallest file of {self.model} takes {smallest.bytes / _MEGABYTE:.3g} MB, the budget is "
                f"{(self.budget or 0) / _MEGABYTE:.3g} MB; raise it, or make the model smaller with prune-vocab."
            )
        best = allowed[-1]
        first = best.failed[0]
        raise GateBlocked(
            f"no file of {self.model} passes; the largest within the budget, {best.weights} with embedding "
            f"{best.embedding}, fails by {first.name}: {first.reason}."
        )


def size_types(model_dir: Path, budget: int | None = None) -> TypeSearch:
    """The pairs of types with the sizes of their files; nothing is written.

    Raises UsageError where the model cannot be exported.
    """
    header = plan_export(model_dir, weights=_TYPES[0], embedding=_TYPES[0]).header  # as long whatever the types are
    types = []
    with open_source(model_dir) as source:
        for weights, embedding in product(_TYPES, repeat=2):
            tensors = plan_types(source.model, weights=weights, embedding=embedding)
            size = ExportPlan(tensors=tuple(tensors.values()), header=header).file_bytes
            over = budget is not None and size > budget
            outcome = Outcome.OVER_BUDGET if over else Outcome.NOT_TRIED
            types.append(TriedTypes(weights=weights, embedding=embedding, bytes=size, outcome=outcome))
    return TypeSearch(model=str(model_dir), budget=budget, types=tuple(sorted(types, key=lambda tried: tried.bytes)))


def search_types(
    model_dir: Path,
    out: Path,
    evaluate: Callable[[Path], Metrics],
    *,
    prove: Callable[[Path], object] | None = None,
    thresholds: Thresholds | None = None,
    budget: int | None = None,
) -> TypeSearch:
    """Write the smallest file of the model in ``model_dir`` that passes as ``out``; none where none does.

    Args:
        evaluate: the metrics of a GGUF file.
        prove: what the chosen file must pass before it gets its name; it raises an error of its own.
        thresholds: floors, and how far a metric may fall below that of the largest file; None: see judge_smaller.
        budget: the largest size allowed, in bytes. The largest file is measured even above it, as the reference.

    Raises:
        UsageError: the model cannot be exported, or nothing can be written there.
    """
    require_writable(out)
    sized = size_types(model_dir, budget)
    if sized.over_budget:
        return sized
    largest = sized.types[-1]
    tried = list(sized.types)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:

        def written(types: TriedTypes) -> Path:
            file = Path(folder) / f"{types.weights}-{types.embedding}.gguf"
            if not file.exists():
                logger.info("%s with embedding %s, %.1f MB", types.weights, types.embedding, types.bytes / _MEGABYTE)
                export_gguf(model_dir, file, weights=types.weights, embedding=types.embedding)
            return file

        reference = evaluate(written(largest))
        for place, types in enumerate(sized.types):
            if types.outcome is Outcome.OVER_BUDGET:
                break
            file = written(types)
            tried[place] = _judged(types, reference if types is largest else evaluate(file), reference, thresholds)
            if tried[place].outcome is Outcome.CHOSEN:
                if prove:
                    prove(file)
                file.replace(out)
                break
            file.unlink()
    last = tried[-1].outcome
    outcome = Outcome.REFERENCE if last is Outcome.NOT_TRIED else last
    tried[-1] = tried[-1].model_copy(update={"metrics": reference, "outcome": outcome})
    return sized.model_copy(update={"types": tuple(tried)})


def _judged(types: TriedTypes, metrics: Metrics, reference: Metrics, thresholds: Thresholds | None) -> TriedTypes:
    verdict = judge_smaller(candidate=metrics.model_dump(), largest=reference.model_dump(), thresholds=thresholds)
    outcome = Outcome.CHOSEN if verdict.passed else Outcome.FAILED
    return types.model_copy(update={"outcome": outcome, "metrics": metrics, "gates": verdict.gates})
