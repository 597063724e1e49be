"""A model converted with the smallest types that still answer well: what ``convert --type auto`` runs."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deployment.prompts.prompt import Prompt
from flows.cli.evaluation import LabelledData, read_labelled, turns_of
from flows.settings import load_profile
from registry.cores import usable_cores
from registry.errors import UsageError
from registry.records import OUT_OF_SCOPE
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.runtimes import open_runtime
from tasks.type_search.search import TypeSearch, search_types, size_types
from tasks.verification.proven import require_proof

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]B)?", re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """``70MB`` -> 70,000,000, as file sizes are shown everywhere. Raises UsageError for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is no size; write one such as 70MB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What the types of a file are chosen by.

    Args:
        data: labelled records that each file is asked, or a folder with test.jsonl.
        labels: their label set; None takes the labels.toml beside them, else what they use.
        profile: brings floors, instruction and settings of the evaluation; None: no floors, and a metric may fall by a
            point below the largest file's.
        budget: the largest size allowed, such as 70MB.
        threads: of llama.cpp; 0 takes every core.
        verify: the chosen file is proven to be the model before it gets its name.
    """

    data: Path | None = None
    labels: Path | None = None
    profile: str | None = None
    budget: str | None = None
    threads: int = 0
    verify: bool = True

    @property
    def _limit(self) -> int | None:
        return None if self.budget is None else size_in_bytes(self.budget)

    def plan(self, model: Path) -> TypeSearch:
        """The sizes of all files that could be tried. Raises UsageError where the model cannot be exported."""
        return size_types(model, self._limit)

    def convert(self, model: Path, out: Path) -> TypeSearch:
        """Write the smallest file of ``model`` that passes as ``out``; none where none does.

        Raises:
            UsageError: model, data, label set, profile or budget cannot be used.
            LinesRefused: a line of ``data`` breaks the contract or the label set.
            VerificationFailed: the chosen file is not the model; nothing was written.
        """
        if self.data is None:
            raise UsageError("--type auto measures each file that it tries; name labelled records with --data.")
        labelled, limit = read_labelled(self.data, self.labels), self._limit
        settings = load_profile(self.profile) if self.profile else None
        if settings:
            _require_both_kinds(labelled, settings.name)
        prompt = settings.prompt if settings else Prompt(turns=turns_of(model))
        threads = self.threads or usable_cores()
        options: dict[str, Any] = {}
        if settings:
            evaluation = settings.evaluation
            options = {
                "max_new_tokens": evaluation.max_new_tokens,
                "context": evaluation.context,
                "parallel": evaluation.slots,
            }

        def evaluate(gguf: Path) -> Metrics:
            runtime = open_runtime(str(gguf), prompt=prompt, threads=threads, **options)
            return labelled.evaluate(runtime, model=str(model), path=gguf).metrics

        thresholds = settings.gates if settings else None
        prove = partial(require_proof, model_dir=model, out=out, threads=threads) if self.verify else None
        return search_types(model, out, evaluate, prove=prove, thresholds=thresholds, budget=limit)


def _require_both_kinds(labelled: LabelledData, profile: str) -> None:
    """Floors are for all metrics, and a metric that nothing measures is below its floor."""
    foreign = {record.response.intent == OUT_OF_SCOPE for record in labelled.records}
    for kind, name in ((True, "out-of-scope"), (False, "audit")):
        if kind not in foreign:
            raise UsageError(
                f"{labelled.file} has no {name} command, so the gates of {profile} cannot be judged; add some, or omit "
                "--profile."
            )
