"""Train: the teacher on the snapshot, then the student under it, on the grid of the file that ships."""

from pydantic import BaseModel, ConfigDict

from deployment.prompts.prompt import Prompt
from registry.artifacts import Artifact
from registry.code import code_behind
from registry.models import stage_run
from registry.store.snapshots import Snapshot
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.distill.teacher_cache import TeacherCache, cache_name
from tasks.gguf.plan import plan_types
from tasks.quant.types import QuantType
from tasks.steps import StepContext, step
from tasks.training.fit import Teaching, history_file
from tasks.training.loop import History
from tasks.training.models import load_model
from tasks.training.objective import Objective
from tasks.training.plots import plot_losses
from tasks.training.processes import TrainingJob, fit_in_processes
from tasks.training.recipe import DistillRecipe, TrainingRecipe


class TrainedModel(BaseModel):
    """A Hugging Face folder and how its training went."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    history: History


@step
def train_teacher(
    step: StepContext,
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
) -> TrainedModel:
    return _train(step, "teacher", base, snapshot, recipe, prompt, weights, embedding)


@step
def distill_student(
    step: StepContext,
    base: Artifact,
    teacher: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    distill: DistillRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
) -> TrainedModel:
    return _train(step, "student", base, snapshot, recipe, prompt, weights, embedding, teacher=teacher, distill=distill)


def _train(
    step: StepContext,
    stage: str,
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
    *,
    teacher: Artifact | None = None,
    distill: DistillRecipe | None = None,
) -> TrainedModel:
    """Train from ``base`` into the step's folder, with losses, curve and history logged to a nested MLflow run."""
    out = step.folder / "model"
    step.folder.mkdir(parents=True, exist_ok=True)
    teaching = None
    if teacher and distill:
        name = cache_name(
            teacher=teacher.sha256,
            precision=recipe.precision,
            code=code_behind(load_model, Objective, TeacherCache).key(),
            **distill.model_dump(include={"temperature", "cache_top_k", "teacher_bits"}),
        )
        teaching = Teaching(teacher.verify(), distill, step.folder.parent / name)
    plan = plan_types(describe(read_json(base.path / "config.json")), weights=weights, embedding=embedding)
    with stage_run(step.run_id, stage) as log:
        log.log_params(recipe.model_dump() | (distill.model_dump() if distill else {}))
        job = TrainingJob(
            base=base.verify(),
            out=out,
            train_records=snapshot.records("train"),
            validation_records=snapshot.records("validation"),
            labels=snapshot.label_set,
            prompt=prompt,
            recipe=recipe,
            types={name: tensor.type for name, tensor in plan.items()},
            teaching=teaching,
            title=stage,
        )
        history = fit_in_processes(job, log.log_metric)
        curve = plot_losses(history, step.folder / "losses.png", title=stage)
        log.log_artifact(curve)
        log.log_artifact(history_file(out))
        log.log_metrics({"tokens": history.tokens, "training_seconds": history.seconds}, step=history.steps)
    return TrainedModel(model=Artifact.of(stage, out), history=history)
