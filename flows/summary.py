"""What a retrain leaves behind, as the JSON of ``--summary``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, ConfigDict

from flows.run import Run
from registry.artifacts import Artifact
from registry.errors import GateBlocked
from registry.files import write_text
from tasks.doubt.report import DoubtReport
from tasks.evaluation.metrics import Metrics
from tasks.gates.judge import Gate


class Answer(BaseModel):
    """A command, what the shipped file said to it, and what it should have said."""

    model_config = ConfigDict(frozen=True)

    command: str
    answer: str
    expected: str
    ok: bool  # the same response, whatever the order of its entities


class RetrainSummary(BaseModel):
    """The stable schema of ``gemmill retrain --summary``."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    profile: str
    run_id: str
    model_name: str
    model_version: int
    aliases: list[str]
    passed: bool
    snapshot: dict[str, Any]
    artifacts: list[Artifact]
    metrics: dict[str, Metrics]
    gates: list[Gate]
    doubt: DoubtReport | None = None  # how sure grounded answers are on the test split, where that was calibrated
    answers: list[Answer]  # to the golden commands
    worst: list[Answer]  # wrong ones of the test split: no JSON first, then the wrong intent, then wrong entities
    reports: dict[str, Path]  # evaluation of the shipped file, weight forensics, data checks: HTML pages
    seconds: dict[str, float]
    reused: list[str]


class CandidateBlocked(GateBlocked):
    """The candidate was registered with its verdict and got no further; ``summary`` is the retrain's."""

    def __init__(self, message: str, summary: RetrainSummary) -> None:
        super().__init__(message)
        self.summary = summary


def keep_summary(run: Run, summary: RetrainSummary, *, evaluations: Iterable[Artifact], inspection: Artifact) -> None:
    """Summary, resolved profile and pages as artifacts of the MLflow run, the figures as a table in Prefect."""
    log, folder = run.log, run.home.summaries(run.log.run_id)
    write_text(folder / "summary.json", summary.model_dump_json(indent=2) + "\n")
    write_text(folder / "profile.json", run.settings.model_dump_json(indent=2) + "\n")
    log.log_artifact(folder)
    for page in evaluations:
        log.log_artifact(page.path, "evaluation")
    log.log_artifact(inspection.path, "forensics")
    for stage in ("teacher", "student"):  # the run's own metrics are those of the file that ships
        log.log_metrics({f"{stage}.{name}": value for name, value in summary.metrics[stage].model_dump().items()})
    log.log_metrics({f"seconds.{name}": value for name, value in summary.seconds.items()})
    verdict = "passed" if summary.passed else "blocked"
    log.set_tags({"gate_verdict": verdict, "reused_steps": ", ".join(summary.reused)})
    table = [{"stage": stage, **metrics.model_dump()} for stage, metrics in summary.metrics.items()]
    create_table_artifact(key="metrics", table=table)
