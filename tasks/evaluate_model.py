"""Ask a model every command of the test split, in the runtime that its form asks for."""

from pydantic import BaseModel, ConfigDict

from deployment.prompt import Prompt
from registry.artifacts import Artifact
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.report import evaluation_report, write_report
from tasks.evaluation.runtimes import open_runtime
from tasks.records import snapshot_labels, snapshot_records
from tasks.steps import Place, step


class EvaluatedModel(BaseModel):
    """Metrics of one model on the test split, with the report that holds every answer."""

    model_config = ConfigDict(frozen=True)

    metrics: Metrics
    report: Artifact
    page: Artifact


@step(
    "tasks/evaluation",
    "tasks/checkpoints",
    "tasks/gguf_export/architectures",
    "tasks/gguf_export/checkpoint.py",
    "tasks/gguf_export/files.py",
    "tasks/gguf_export/source.py",
    "tasks/reports",
    "data_checks/contract.py",
    "deployment/modelfile.py",
    "deployment/ollama_client.py",
    "deployment/prompt.py",
    "deployment/turns.py",
    "tasks/evaluate_model.py",
)
def evaluate_model(
    model: Artifact,
    snapshot: Snapshot,
    prompt: Prompt,
    max_new_tokens: int,
    context: int,
    parallel: int,
    threads: int,
    place: Place,
) -> EvaluatedModel:
    """Greedy, unconstrained answers to the test split, scored; ``model`` is a Hugging Face folder or a GGUF file."""
    records = snapshot_records(snapshot, "test")
    stage = f"evaluate-{model.kind}"
    with stage_run(place.run_id, stage) as log:
        runtime = open_runtime(
            str(model.verify()),
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            context=context,
            parallel=parallel,
            threads=threads,
        )
        with runtime:
            predictions = runtime.answer([record.command for record in records])
        report = evaluation_report(
            records,
            predictions,
            snapshot_labels(snapshot),
            model=model.kind,
            sha256=model.sha256,
            dataset=snapshot.dataset,
            dataset_sha256=snapshot.sha256,
        )
        json_path, html_path = place.folder / f"{stage}.json", place.folder / f"{stage}.html"
        write_report(report, json_path=json_path, html_path=html_path)
        log.log_metrics(report.metrics.model_dump())
        for path in (json_path, html_path):
            log.log_artifact(path)
    return EvaluatedModel(
        metrics=report.metrics,
        report=Artifact.of("evaluation", json_path),
        page=Artifact.of("evaluation page", html_path),
    )
