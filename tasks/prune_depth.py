"""Drop the decoder layers of the student's base that the plant's records need least."""

from pydantic import BaseModel, ConfigDict

from deployment.prompt import Prompt
from registry.artifacts import Artifact, write_text
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.depth.pruning import DepthReport
from tasks.depth.pruning import prune_depth as prune
from tasks.depth.recipe import DepthRecipe
from tasks.records import snapshot_labels, snapshot_records
from tasks.steps import Place, step
from tasks.train_teacher import TRAINING_CODE


class ShallowBase(BaseModel):
    """A base with some of its layers, and what each layer is worth."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    report: DepthReport


@step(
    *TRAINING_CODE,
    "tasks/depth",
    "tasks/gguf_export/base_layers.py",
    "tasks/prune_depth.py",
)
def prune_depth(base: Artifact, snapshot: Snapshot, recipe: DepthRecipe, prompt: Prompt, place: Place) -> ShallowBase:
    """Measured on the records that are validated with: a trained base knows those that it was trained on by heart."""
    records = snapshot_records(snapshot, "validation") or snapshot_records(snapshot, "train")
    out = place.folder / "model"
    with stage_run(place.run_id, "depth") as log:
        log.log_params(recipe.model_dump())
        report = prune(base.verify(), out, records, snapshot_labels(snapshot), recipe, prompt=prompt)
        report_file = place.folder / "depth.json"
        write_text(report_file, report.model_dump_json(indent=2) + "\n")
        log.log_artifact(report_file)
        log.log_metrics({"loss": report.loss, "loss_without": report.removals[-1].loss})
    return ShallowBase(model=Artifact.of("shallow base", out), report=report)
