"""The main job: from audit data to a registered candidate that has passed, or failed, its gates."""

from pathlib import Path

from prefect import flow

from deployment.packages.licence import licence_metadata
from flows.answers import golden_answers, worst_answers
from flows.bases import Bases, plan, prepare
from flows.ingest import dataset_of
from flows.measure import GROUNDED, Measured, Trained, measure, with_doubt
from flows.run import Run, git_revision, open_run
from flows.settings import load_profile
from flows.summary import CandidateBlocked, RetrainSummary, keep_summary
from registry import models
from registry.artifacts import Artifact
from registry.errors import GateBlocked
from registry.files import require_writable, write_text
from registry.home import Home
from registry.store.datasets import AuditStore
from tasks.bases.resolve import licence_terms
from tasks.bases.spec import ScratchBase, TeacherBase
from tasks.collect import check_data, take_snapshot
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.report import load_report
from tasks.export import ExportedModel, export_gguf
from tasks.prepare import prune_depth
from tasks.publish import package_model, register_version
from tasks.train import distill_student, train_teacher

# In a package they would make the same model a new version.
_TIMINGS = {name for name in Metrics.model_fields if name.startswith(("seconds", "tokens_", "latency_", "first_"))}


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
    settings, located = load_profile(profile), Home.locate(home).made()
    if summary:
        require_writable(summary)
    settings.require_texts(texts)
    settings.require_packages()
    models.connect(located.path)
    with AuditStore(located.database_url) as store:
        name = dataset_of(store, data, labels=labels, dataset=dataset)
    snapshot = take_snapshot(located.database_url, name, located.snapshots)
    with open_run(settings, located, snapshot, texts) as run:
        checked = run.steps.run(check_data, snapshot)
        run.log.log_artifact(checked.data_docs.parent, "data_docs")
        bases = prepare(run)
        run = plan(run, bases)
        trained = train(run, bases)
        exported = export(run, trained)
        run = with_doubt(run, bases, exported)
        measured = measure(run, trained, exported)
        package, version = publish(run, trained, exported, measured)
        shipped = measured.metrics["gguf"]
        result = RetrainSummary(
            profile=settings.name,
            run_id=run.log.run_id,
            model_name=version.name,
            model_version=version.version,
            aliases=list(version.aliases),
            passed=measured.verdict.passed,
            snapshot=snapshot.model_dump(mode="json", exclude={"path"}),
            artifacts=[trained.teacher.model, trained.student.model, exported.gguf, package],
            metrics={stage: evaluated.metrics for stage, evaluated in measured.metrics.items()},
            gates=list(measured.verdict.gates),
            doubt=load_report(measured.metrics[GROUNDED].report.path).doubt,
            answers=golden_answers(run, shipped.report),
            worst=worst_answers(run, shipped.report),
            reports={
                "evaluation": measured.metrics[GROUNDED].page.path,  # free and grounded
                "forensics": measured.forensics.page.path,
                "data": checked.data_docs,
            },
            seconds=run.steps.seconds,
            reused=run.steps.reused,
        )
        pages = [evaluated.page for evaluated in measured.metrics.values()]
        keep_summary(run, result, evaluations=pages, inspection=measured.forensics.page)
    run.steps.prune(settings.retraining.keep_steps_days)
    if summary:
        write_text(summary, result.model_dump_json(indent=2) + "\n")
    with AuditStore(located.database_url) as store:
        store.mark_snapshot_used(snapshot.dataset, snapshot.id)
    try:
        measured.verdict.require()
    except GateBlocked as blocked:
        raise CandidateBlocked(str(blocked), result) from blocked
    return result


def train(run: Run, bases: Bases) -> Trained:
    """Teacher, then student; both are told the types of the file that ships."""
    settings, snapshot, prompt, steps = run.settings, run.snapshot, run.settings.prompt, run.steps
    types = settings.export
    teacher = steps.run(
        train_teacher,
        base=bases.teacher,
        snapshot=snapshot,
        recipe=settings.teacher.training,
        prompt=prompt,
        weights=types.weights,
        embedding=types.embedding,
    )
    student_base = teacher.model if isinstance(settings.student.base, TeacherBase) else bases.student
    if depth := settings.student.depth:
        student_base = steps.run(prune_depth, base=student_base, snapshot=snapshot, recipe=depth, prompt=prompt).model
    student = steps.run(
        distill_student,
        base=student_base,
        teacher=teacher.model,
        snapshot=snapshot,
        recipe=settings.student.training,
        distill=settings.student.distill,
        prompt=prompt,
        weights=types.weights,
        embedding=types.embedding,
    )
    return Trained(bases.origin, teacher, student)


def export(run: Run, trained: Trained) -> ExportedModel:
    """The student as the GGUF file that ships, with where it comes from written into it."""
    settings, student = run.settings, trained.student.model
    return run.steps.run(
        export_gguf,
        student=student,
        snapshot=run.snapshot,
        file_name=f"{settings.model_name}-{settings.export.weights}.gguf",
        prompt=settings.prompt,
        weights=settings.export.weights,
        embedding=settings.export.embedding,
        provenance={
            "general.name": settings.model_name,
            **{f"gemmill.{key}": digest for key, digest in run.origin(trained.base).items()},
            "gemmill.model_sha256": student.sha256,
            **licence_metadata(settings.licence),
        },
    )


def publish(
    run: Run, trained: Trained, exported: ExportedModel, measured: Measured
) -> tuple[Artifact, models.RegisteredVersion]:
    """Package the file and register the package with its verdict."""
    settings, origin = run.settings, run.origin(trained.base)
    base = settings.shipped_base
    terms = licence_terms(base)
    package = run.steps.run(
        package_model,
        gguf=exported.gguf,
        evaluation=measured.metrics["gguf"].report,
        snapshot=run.snapshot,
        model_name=settings.model_name,
        prompt=settings.prompt,
        licence=settings.licence,
        derived=not isinstance(base, ScratchBase),
        terms=Artifact.of("terms", terms) if terms else None,
        limits=settings.evaluation.limits(exported.longest),
        rules=run.rules,
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
    run.log.log_metrics(measured.metrics["gguf"].metrics.model_dump())
    run.log.log_metrics(
        {f"grounded.{name}": value for name, value in measured.metrics[GROUNDED].metrics.model_dump().items()}
    )
    version = register_version(
        run.log.run_id,
        package,
        settings.model_name,
        measured.verdict.passed,
        {
            "profile": settings.name,
            **origin,
            "git_revision": git_revision(),
            "gates": ", ".join(gate.name for gate in measured.verdict.failed) or "all passed",
        },
    )
    return package, version
