"""A model of any form, asked every command of a file: what ``evaluate`` and ``compare`` run."""

from collections.abc import Callable
from pathlib import Path

from data_checks.contract import LabelSet, Record, infer_label_set, load_label_set, read_jsonl
from data_checks.quarantine import LinesRefused
from deployment.package import verify_package
from deployment.prompt import Prompt
from registry import models
from registry.artifacts import Artifact, file_sha256
from registry.errors import UsageError
from tasks.cores import usable_cores
from tasks.evaluation.report import EvaluationReport, evaluation_report
from tasks.evaluation.runtimes import open_runtime

_REGISTRY_PREFIX = "models:/"


def evaluation_of(
    model: str, data: Path, labels: Path | None, instruction: str, threads: int, home: Path
) -> Callable[[], EvaluationReport]:
    """What scores the greedy, unconstrained answers of ``model`` to the records of ``data``, once all is found.

    Raises:
        UsageError: model, data or label set cannot be used.
        LinesRefused: a line of ``data`` breaks the contract or the label set.
        ServiceUnavailable: the model is a server that does not answer.
    """
    file = data / "test.jsonl" if data.is_dir() else data
    records, label_set = _records(file, labels)
    prompt, spec = Prompt(instruction=instruction), model
    if model.startswith(_REGISTRY_PREFIX):
        package = verify_package(_download(model, home))
        prompt, spec = package.prompt, str(package.gguf)
    runtime = open_runtime(spec, prompt=prompt, threads=threads or usable_cores())

    def evaluate() -> EvaluationReport:
        with runtime:
            predictions = runtime.answer([record.command for record in records])
        return evaluation_report(
            records,
            predictions,
            label_set,
            model=model,
            sha256=Artifact.of("model", Path(spec)).sha256 if Path(spec).exists() else None,
            dataset=label_set.name,
            dataset_sha256=file_sha256(file),
        )

    return evaluate


def _records(file: Path, labels: Path | None) -> tuple[list[Record], LabelSet]:
    beside = file.parent / "labels.toml"
    chosen = labels or (beside if beside.is_file() else None)
    label_set = load_label_set(chosen) if chosen else None
    records, problems = read_jsonl(file, label_set)
    if problems:
        raise LinesRefused(problems)
    if not records:
        raise UsageError(f"{file} holds no records; give labelled ones, one JSON object a line.")
    return records, label_set or infer_label_set("inferred", (record.response for record in records))


def _download(model: str, home: Path) -> Path:
    """The package behind ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``."""
    name, _, wanted = model.removeprefix(_REGISTRY_PREFIX).replace("@", "/").partition("/")
    if not name or not wanted:
        raise UsageError(f"{model!r} is no model of the registry; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    models.connect(home)
    version = models.resolve(name, wanted)
    return models.download(version, home / "packages" / f"{version.name}-{version.version}")
