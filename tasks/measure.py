"""Measure: the answers of every stage and of the champion, the weights, and the verdict on both."""

from collections.abc import Mapping
from typing import NamedTuple

from prefect import task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict

from deployment.answers.policy import decoding_of
from deployment.answers.rules import AnswerRules
from deployment.packages.package import Package, verify_package
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import Mode
from registry import models
from registry.artifacts import Artifact
from registry.files import write_text
from registry.home import Home
from registry.models import stage_run
from registry.records import LabelSet
from registry.store.snapshots import Snapshot
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.report import evaluation_report, load_report, write_report
from tasks.evaluation.runtimes import open_runtime
from tasks.evaluation.side_by_side import side_by_side, write_side_by_side
from tasks.forensics import plots
from tasks.forensics.comparison import OutlierComparison, compare_outliers
from tasks.forensics.report import write_report as write_inspection
from tasks.forensics.statistics import tensor_statistics
from tasks.gates.judge import Verdict, judge
from tasks.gates.report import verdict_markdown
from tasks.gates.thresholds import Thresholds
from tasks.reports.figures import write_png
from tasks.steps import StepContext, outside, step


class EvaluatedModel(BaseModel):
    """Metrics of one model on the test split, with the report that holds every answer."""

    model_config = ConfigDict(frozen=True)

    metrics: Metrics
    report: Artifact
    page: Artifact


class Forensics(BaseModel):
    """The shipped file's norm gains against the base's and, where there is one, the champion's."""

    model_config = ConfigDict(frozen=True)

    vs_base: OutlierComparison
    vs_champion: OutlierComparison | None
    page: Artifact


class Champion(NamedTuple):
    """The version that a candidate is measured against."""

    name: str
    package: Package


@outside(minutes=30)
def fetch_champion(model_name: str, home: Home) -> Champion | None:
    """The reigning version with its package; None before the first promotion."""
    version = models.find(model_name, models.CHAMPION)
    if version is None:
        return None
    package = verify_package(models.download(version, home.package(version.name, version.version)))
    return Champion(f"{version.name} version {version.version}", package)


@step
def evaluate_model(
    step: StepContext,
    model: Artifact,
    snapshot: Snapshot,
    prompt: Prompt,
    max_new_tokens: int,
    context: int,
    parallel: int,
    threads: int,
    labels: LabelSet,
    rules: AnswerRules,
    mode: Mode,
    beside: Artifact | None,
) -> EvaluatedModel:
    """Greedy answers to the test split, scored; ``model`` is a Hugging Face folder or a GGUF file.

    ``labels`` and ``rules`` are the model's own, which hold answers that are not free. ``beside`` is its report of
    another mode, which the page shows too.
    """
    records = snapshot.records("test")
    stage = f"evaluate-{model.kind}" if mode == Mode.FREE else f"evaluate-{model.kind}-{mode}"
    with stage_run(step.run_id, stage) as log:
        runtime = open_runtime(
            str(model.verify()),
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            context=context,
            parallel=parallel,
            threads=threads,
            decoding=decoding_of(mode, labels, rules),
        )
        with runtime:
            predictions = runtime.answer([record.command for record in records])
        report = evaluation_report(
            records,
            predictions,
            snapshot.label_set,
            model=model.kind,
            sha256=model.sha256,
            dataset=snapshot.dataset,
            dataset_sha256=snapshot.sha256,
            decoding=mode,
            doubt=rules.doubt if mode == Mode.GROUNDED else None,
        )
        json_path, html_path = step.folder / f"{stage}.json", step.folder / f"{stage}.html"
        write_report(report, json_path=json_path, html_path=None if beside else html_path)
        if beside:
            write_side_by_side(side_by_side(load_report(beside.verify()), report), html_path=html_path)
        log.log_metrics(report.metrics.model_dump())
        log.log_metrics(report.doubt.figures() if report.doubt else {})
        for path in (json_path, html_path):
            log.log_artifact(path)
    return EvaluatedModel(
        metrics=report.metrics,
        report=Artifact.of("evaluation", json_path),
        page=Artifact.of("evaluation page", html_path),
    )


@step
def inspect_weights(
    step: StepContext,
    base: Artifact,
    teacher: Artifact,
    student: Artifact,
    gguf: Artifact,
    champion: Artifact | None,
    ratio_max: float,
) -> Forensics:
    """Measure and compare; statistics, page and heat maps become artifacts of the MLflow run."""
    models = {"base": base, "teacher": teacher, "student": student, "gguf": gguf}
    if champion:
        models["champion"] = champion
    with stage_run(step.run_id, "forensics") as log:
        statistics = {}
        for name, model in models.items():
            statistics[name] = tensor_statistics(model.path).model_copy(update={"model": name})
            write_text(step.folder / f"{name}.json", statistics[name].to_json())
            gains = [norm.gains.max_abs for norm in statistics[name].norms if norm.gains]
            log.log_metrics({f"{name}.largest_gain": max(gains, default=None)})
        shipped = statistics["gguf"]
        figures = {
            f"norm_gains_{name}": plots.gain_heat_map(statistics[name], title=f"Largest norm gain, {name}")
            for name in ("base", "teacher", "student")
        } | {
            f"weights_{name}": plots.weight_heat_map(statistics[name], title=f"Largest weight, {name}")
            for name in ("teacher", "student")
        }
        for name, figure in figures.items():
            write_png(figure, step.folder / f"{name}.png")
        page = step.folder / "inspection.html"
        others = {name: found for name, found in statistics.items() if name != "gguf"}
        write_inspection(page, shipped, others, ratio_max=ratio_max)
        log.log_artifact(step.folder, "forensics")

    def against(name: str) -> OutlierComparison:
        return compare_outliers(shipped, statistics[name], ratio_max=ratio_max)

    return Forensics(
        vs_base=against("base"),
        vs_champion=against("champion") if champion else None,
        page=Artifact.of("inspection page", page),
    )


@task
def judge_gates(
    candidate: Metrics,
    champion: Metrics | None,
    champion_name: str | None,
    outliers_vs_base: OutlierComparison,
    outliers_vs_champion: OutlierComparison | None,
    checks: Mapping[str, bool],
    thresholds: Thresholds,
    candidate_grounded: Metrics,
    champion_grounded: Metrics | None,
) -> Verdict:
    """The verdict on the candidate, also as a Prefect artifact; it is for the flow to act on it."""
    verdict = judge(
        candidate=candidate.model_dump(),
        champion=champion.model_dump() if champion else None,
        champion_name=champion_name,
        outliers_vs_base=outliers_vs_base,
        outliers_vs_champion=outliers_vs_champion,
        checks=checks,
        thresholds=thresholds,
        candidate_grounded=candidate_grounded.model_dump(),
        champion_grounded=champion_grounded.model_dump() if champion_grounded else None,
    )
    create_markdown_artifact(key="gates", markdown=verdict_markdown(verdict))
    return verdict
