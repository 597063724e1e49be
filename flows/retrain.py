"""The main job: from audit data to a registered candidate that has passed, or failed, its gates."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow
from prefect.artifacts import create_table_artifact

from data_checks.contract import LabelSet, answer_text
from data_checks.sample import SAMPLE_DIR
from deployment.modelfile import Limits
from deployment.package import Package, verify_package
from flows.ingest import ingest_paths
from flows.settings import Profile, load_profile
from flows.summary import Answer, CandidateBlocked, RetrainSummary
from registry import models
from registry.artifacts import Artifact, require_writable, write_text
from registry.audit_store import AuditStore
from registry.errors import GateBlocked, UsageError
from registry.home import Home
from registry.names import require_name
from registry.snapshots import Snapshot
from tasks.bases.resolve import AnyBase, licence_terms
from tasks.bases.spec import ScratchBase, TeacherBase
from tasks.check_data import check_data
from tasks.depth.pruning import require_prunable
from tasks.distill_student import distill_student
from tasks.evaluate_model import EvaluatedModel, evaluate_model
from tasks.evaluation.golden import golden_rows
from tasks.evaluation.report import EvaluatedRow, load_report
from tasks.export_gguf import ExportedModel, export_gguf
from tasks.gates.judge import Verdict
from tasks.inspect_weights import Forensics, inspect_weights
from tasks.judge_gates import judge_gates
from tasks.package_model import package_model
from tasks.prepare_base import prepare_base
from tasks.pretrain_base import pretrain_base
from tasks.prune_depth import prune_depth
from tasks.prune_vocabulary import prune_vocabulary
from tasks.records import snapshot_labels
from tasks.register_version import register_version
from tasks.steps import Steps
from tasks.take_snapshot import take_snapshot
from tasks.take_texts import take_texts
from tasks.train_teacher import TrainedModel, train_teacher

_TIMINGS = {"seconds", "tokens_per_second"}  # in a package they would make the same model a new version
_DEMONSTRATED = 3  # golden commands that are printed, where the label set names no more
_WORST = 3  # wrong answers of the test split that a summary names


class Trained(NamedTuple):
    base: Artifact
    teacher: TrainedModel
    student: TrainedModel


class Champion(NamedTuple):
    name: str
    package: Package
    metrics: EvaluatedModel


class Measured(NamedTuple):
    metrics: dict[str, EvaluatedModel]  # by stage: teacher, student, gguf
    forensics: Forensics
    verdict: Verdict


@flow(name="retrain")
def retrain(
    profile: str = "tiny",
    data: Path | None = None,
    labels: Path | None = None,
    dataset: str | None = None,
    texts: list[Path] | None = None,
    home: Path | None = None,
    summary: Path | None = None,
) -> RetrainSummary:
    """Train, export, measure, judge and register a candidate.

    Args:
        profile: name of a shipped profile or path of a TOML file.
        data: audit files to ingest first, into ``dataset``; without both the shipped synthetic sample.
        labels: label set for ``data``.
        dataset: the dataset to train on; without ``data`` as it stands in the audit store.
        texts: unlabelled texts for a profile that pre-trains its bases or chooses their vocabulary.
        home: where state lives.
        summary: file for the summary as JSON, written also where a gate blocks.

    Raises:
        UsageError: ``labels`` without ``data``, a profile that cannot be used, or one whose ``texts`` are missing.
        CandidateBlocked: a gate failed; the candidate is registered with its verdict, without the alias challenger.
    """
    settings, place = load_profile(profile), Home.locate(home).made()
    if summary:
        require_writable(summary)
    settings.require_texts(texts)
    settings.require_packages()
    models.connect(place.path)
    snapshot = take_snapshot(place.database_url, _dataset(place, data, labels, dataset), place.snapshots)

    run_name, tags = f"{settings.name}-{snapshot.id}", {"profile": settings.name, "snapshot_sha256": snapshot.sha256}
    with models.retrain_run(run_name, params=settings.model_dump(mode="json"), tags=tags) as run:
        models.log_snapshot(run.run_id, snapshot)
        steps = Steps(place.steps, run.run_id)
        checked = steps.run(check_data, snapshot=snapshot)
        run.log_artifact(checked.data_docs.parent, "data_docs")
        unlabelled = take_texts(texts, place.texts) if texts else None
        trained = train(steps, settings, snapshot, place, unlabelled)
        origin = {"snapshot_sha256": snapshot.sha256, "base_sha256": trained.base.sha256}
        if unlabelled:
            origin["texts_sha256"] = unlabelled.sha256
        exported = export(steps, settings, snapshot, trained.student, origin)
        measured = measure(steps, settings, snapshot, place, trained, exported)
        package, version = publish(steps, settings, snapshot, run, exported, measured, origin)
        result = RetrainSummary(
            profile=settings.name,
            run_id=run.run_id,
            model_name=version.name,
            model_version=version.version,
            aliases=list(version.aliases),
            passed=measured.verdict.passed,
            snapshot=snapshot.model_dump(mode="json", exclude={"path"}),
            artifacts=[trained.teacher.model, trained.student.model, exported.gguf, package],
            metrics={stage: evaluated.metrics for stage, evaluated in measured.metrics.items()},
            gates=list(measured.verdict.gates),
            answers=demonstrate(settings, snapshot, measured.metrics["gguf"]),
            worst=worst_answers(settings, snapshot, measured.metrics["gguf"]),
            reports={
                "evaluation": measured.metrics["gguf"].page.path,
                "forensics": measured.forensics.page.path,
                "data": checked.data_docs,
            },
            seconds=steps.seconds,
            reused=steps.reused,
        )
        report(run, settings, result, measured, place)
    steps.prune(settings.retraining.keep_steps_days)
    if summary:
        write_text(summary, result.model_dump_json(indent=2) + "\n")
    with AuditStore(place.database_url) as store:
        store.mark_snapshot_used(snapshot.dataset, snapshot.id)
    try:
        measured.verdict.require()
    except GateBlocked as blocked:
        raise CandidateBlocked(str(blocked), result) from blocked
    return result


def train(steps: Steps, settings: Profile, snapshot: Snapshot, place: Home, texts: Artifact | None) -> Trained:
    """Teacher, then student; both are told the types of the file that ships."""

    def started(base: Artifact, stage: str) -> Artifact:
        """The weights from which training starts."""
        if settings.vocabulary:
            base = steps.run(
                prune_vocabulary,
                title=f"prune_{stage}_vocabulary",
                base=base,
                snapshot=snapshot,
                texts=texts,
                recipe=settings.vocabulary,
                prompt=settings.prompt,
            ).model
        if settings.pretraining:
            base = steps.run(
                pretrain_base, title=f"pretrain_{stage}_base", base=base, texts=texts, recipe=settings.pretraining
            ).model
        return base

    common = {"snapshot": snapshot, "prompt": settings.prompt, **settings.export.model_dump()}
    student_spec, depth = settings.student.base, settings.student.depth
    base = prepare_base(settings.teacher.base, snapshot, place.bases)
    of_teacher = isinstance(student_spec, TeacherBase)
    student_origin = base if of_teacher else prepare_base(student_spec, snapshot, place.bases)
    if depth:
        require_prunable(student_origin.path, depth)  # before the teacher is trained
    teacher = steps.run(train_teacher, base=started(base, "teacher"), recipe=settings.teacher.training, **common)
    student_base = teacher.model if of_teacher else started(student_origin, "student")
    if depth:
        student_base = steps.run(
            prune_depth, base=student_base, snapshot=snapshot, recipe=depth, prompt=settings.prompt
        ).model
    student = steps.run(
        distill_student,
        base=student_base,
        teacher=teacher.model,
        recipe=settings.student.training,
        distill=settings.student.distill,
        **common,
    )
    return Trained(student_origin, teacher, student)


def export(
    steps: Steps, settings: Profile, snapshot: Snapshot, student: TrainedModel, origin: dict[str, str]
) -> ExportedModel:
    """The student as the GGUF file that ships, with where it comes from written into it."""
    licence = {"general.license": settings.licence}
    if settings.licence == "gemma":
        licence |= {
            "general.license.name": "Gemma Terms of Use",
            "general.license.link": "https://ai.google.dev/gemma/terms",
        }
    return steps.run(
        export_gguf,
        student=student.model,
        snapshot=snapshot,
        file_name=f"{settings.model_name}-{settings.export.weights}.gguf",
        prompt=settings.prompt,
        provenance={
            "general.name": settings.model_name,
            **{f"gemmill.{key}": digest for key, digest in origin.items()},
            "gemmill.model_sha256": student.model.sha256,
            **licence,
        },
        **settings.export.model_dump(),
    )


def measure(
    steps: Steps, settings: Profile, snapshot: Snapshot, place: Home, trained: Trained, exported: ExportedModel
) -> Measured:
    """Task metrics of every stage and of the champion on this test split, weight forensics, and the verdict."""
    metrics = {
        stage: _evaluated(steps, settings, snapshot, model, stage)
        for stage, model in (
            ("teacher", trained.teacher.model), ("student", trained.student.model), ("gguf", exported.gguf),
        )
    }  # fmt: skip
    champion = _champion(steps, settings, snapshot, place)
    forensics = steps.run(
        inspect_weights,
        base=trained.base,
        teacher=trained.teacher.model,
        student=trained.student.model,
        gguf=exported.gguf,
        champion=Artifact.of("champion", champion.package.gguf) if champion else None,
        ratio_max=settings.gates.norm_outlier_ratio_max,
    )
    verdict = judge_gates(
        candidate=metrics["gguf"].metrics,
        champion=champion.metrics.metrics if champion else None,
        champion_name=champion.name if champion else None,
        outliers_vs_base=forensics.vs_base,
        outliers_vs_champion=forensics.vs_champion,
        checks={
            "prompt_parity": exported.verification.prompt_parity,
            "gguf_verification": exported.verification.passed,
        },
        thresholds=settings.gates,
    )
    return Measured(metrics, forensics, verdict)


def publish(
    steps: Steps,
    settings: Profile,
    snapshot: Snapshot,
    run: models.RunLog,
    exported: ExportedModel,
    measured: Measured,
    origin: dict[str, str],
) -> tuple[Artifact, models.RegisteredVersion]:
    """Package the file and register the package with its verdict."""
    base = _base(settings)
    terms = licence_terms(base)
    package = steps.run(
        package_model,
        gguf=exported.gguf,
        evaluation=measured.metrics["gguf"].report,
        snapshot=snapshot,
        model_name=settings.model_name,
        prompt=settings.prompt,
        licence=settings.licence,
        derived=not isinstance(base, ScratchBase),
        terms=Artifact.of("terms", terms) if terms else None,
        limits=Limits(num_ctx=settings.evaluation.context, num_predict=settings.evaluation.max_new_tokens),
        card={
            "base": ", ".join(
                f"{key} {value}" for key, value in base.model_dump(mode="json", exclude_none=True).items()
            ),
            "profile": settings.name,
            "metrics": {
                stage: evaluated.metrics.model_dump(exclude=_TIMINGS) for stage, evaluated in measured.metrics.items()
            },
            "gates": [gate.model_dump() for gate in measured.verdict.gates],
            "origin": origin,
        },
    )
    run.log_metrics(measured.metrics["gguf"].metrics.model_dump())
    version = register_version(
        run.run_id,
        package,
        settings.model_name,
        measured.verdict.passed,
        {
            "profile": settings.name,
            **origin,
            "git_revision": _git_revision(),
            "gates": ", ".join(gate.name for gate in measured.verdict.failed) or "all passed",
        },
    )
    return package, version


def demonstrate(settings: Profile, snapshot: Snapshot, evaluated: EvaluatedModel) -> list[Answer]:
    """The shipped file's answers to the first golden commands, beside those that the test split gives."""
    labels = snapshot_labels(snapshot)
    rows = golden_rows(load_report(evaluated.report.verify()).rows, labels.golden)
    return _answers(rows[: max(_DEMONSTRATED, len(labels.golden))], settings, labels)


def worst_answers(settings: Profile, snapshot: Snapshot, evaluated: EvaluatedModel) -> list[Answer]:
    """The wrong answers of the shipped file that are furthest off."""

    def rank(row: EvaluatedRow) -> int:
        return 0 if row.got is None else 1 if row.got.intent != row.expected.intent else 2

    wrong = sorted((row for row in load_report(evaluated.report.verify()).rows if not row.ok), key=rank)
    return _answers(wrong[:_WORST], settings, snapshot_labels(snapshot))


def _answers(rows: Sequence[EvaluatedRow], settings: Profile, labels: LabelSet) -> list[Answer]:
    return [
        Answer(
            command=row.command,
            answer=row.answer,
            expected=answer_text(row.expected, labels, compact=settings.compact_answers),
            ok=row.ok,
        )
        for row in rows
    ]


def report(run: models.RunLog, settings: Profile, result: RetrainSummary, measured: Measured, place: Home) -> None:
    """Summary, resolved profile and pages as artifacts of the MLflow run, the figures as a table in Prefect."""
    folder = place.summaries(run.run_id)
    write_text(folder / "summary.json", result.model_dump_json(indent=2) + "\n")
    write_text(folder / "profile.json", settings.model_dump_json(indent=2) + "\n")
    run.log_artifact(folder)
    for evaluated in measured.metrics.values():
        run.log_artifact(evaluated.page.path, "evaluation")
    run.log_artifact(measured.forensics.page.path, "forensics")
    for stage in ("teacher", "student"):  # the run's own metrics are those of the file that ships
        run.log_metrics({f"{stage}.{name}": value for name, value in result.metrics[stage].model_dump().items()})
    run.log_metrics({f"seconds.{name}": value for name, value in result.seconds.items()})
    verdict = "passed" if result.passed else "blocked"
    run.set_tags({"gate_verdict": verdict, "reused_steps": ", ".join(result.reused)})
    table = [{"stage": stage, **metrics.model_dump()} for stage, metrics in result.metrics.items()]
    create_table_artifact(key="metrics", table=table)


def _dataset(place: Home, data: Path | None, labels: Path | None, dataset: str | None) -> str:
    """The dataset to train on, after ``data`` was ingested."""
    if labels and not data:
        raise UsageError(f"the label set {labels} is for audit files; name them with --data too.")
    if dataset is not None and not data:
        return require_name(dataset, "dataset")
    with AuditStore(place.database_url) as store:
        return ingest_paths(store, [data or SAMPLE_DIR], dataset=dataset, labels=labels).dataset


def _evaluated(
    steps: Steps, settings: Profile, snapshot: Snapshot, model: Artifact, stage: str, prompt: Any = None
) -> EvaluatedModel:
    evaluation = settings.evaluation
    return steps.run(
        evaluate_model,
        title=f"evaluate_{stage}",
        model=model,
        snapshot=snapshot,
        prompt=prompt or settings.prompt,
        max_new_tokens=evaluation.max_new_tokens,
        context=evaluation.context,
        parallel=evaluation.slots if model.path.suffix == ".gguf" else evaluation.batch_size,
        threads=evaluation.llama_threads,
    )


def _champion(steps: Steps, settings: Profile, snapshot: Snapshot, place: Home) -> Champion | None:
    """The reigning version, asked the same test commands; None before the first promotion."""
    version = models.find(settings.model_name, models.CHAMPION)
    if version is None:
        return None
    name = f"{version.name} version {version.version}"
    package = verify_package(models.download(version, place.package(version.name, version.version)))
    gguf = Artifact.of("champion", package.gguf)
    return Champion(name, package, _evaluated(steps, settings, snapshot, gguf, "champion", package.prompt))


def _base(settings: Profile) -> AnyBase:
    """What the weights of the file that ships derive from."""
    return settings.teacher.base if isinstance(settings.student.base, TeacherBase) else settings.student.base


def _git_revision() -> str:
    """The revision of the code that ran; "unknown" outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
