"""Prepare: the base that training starts from, with the tokens, the layers and the language that the plant needs, and
what a recipe leaves to the machine that trains."""

from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from data_checks.texts import read_texts
from deployment.prompts.prompt import Prompt
from registry.artifacts import Artifact
from registry.files import write_text
from registry.models import stage_run
from registry.records import Record, answer_text
from registry.store.snapshots import Snapshot
from tasks.bases.resolve import resolve_base
from tasks.bases.spec import StartingBase
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.depth.pruning import DepthReport
from tasks.depth.pruning import prune_depth as drop_layers
from tasks.depth.recipe import DepthRecipe
from tasks.steps import StepContext, outside, step
from tasks.training.examples import build_examples
from tasks.training.fit import history_file
from tasks.training.loop import History
from tasks.training.memory import Batch, Shapes, Teacher, require_memory, training_memory
from tasks.training.plots import plot_losses
from tasks.training.precision import decided
from tasks.training.pretrain import pretrain
from tasks.training.recipe import DistillRecipe, TrainingRecipe
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.pruning import PruneReport
from tasks.vocabulary.pruning import prune_vocabulary as drop_tokens
from tasks.vocabulary.recipe import VocabularyRecipe


class PrunedBase(BaseModel):
    """A base with part of its vocabulary, and what was kept."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    report: PruneReport


class PretrainedBase(BaseModel):
    """A base that knows the plant's language, and how its training went."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    history: History


class ShallowBase(BaseModel):
    """A base with some of its layers, and what each layer is worth."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    report: DepthReport


@outside(minutes=120)
def prepare_base(base: StartingBase, snapshot: Snapshot, cache: Path) -> Artifact:
    """The folder of ``base`` with its digest; what has to be made is made once and found again under ``cache``."""
    records = snapshot.records("train")
    folder = resolve_base(base, cache, records=records, labels=snapshot.label_set, key=snapshot.sha256)
    return Artifact.of("base", folder)


@step
def prune_vocabulary(
    step: StepContext,
    base: Artifact,
    snapshot: Snapshot,
    texts: Artifact | None,
    recipe: VocabularyRecipe,
    prompt: Prompt,
) -> PrunedBase:
    """Count over the records that are trained on or validated with, never those of the test, and over ``texts``."""
    corpus = Corpus(
        records=[record for split in ("train", "validation") for record in snapshot.records(split)],
        labels=snapshot.label_set,
        texts=read_texts([texts.verify()]) if texts else (),
    )
    out = step.folder / "model"
    with stage_run(step.run_id, "vocabulary") as log:
        log.log_params(recipe.model_dump())
        report = drop_tokens(base.verify(), out, corpus, recipe, prompt=prompt)
        report_file = step.folder / "vocabulary.json"
        write_text(report_file, report.model_dump_json(indent=2) + "\n")
        log.log_artifact(report_file)
        log.log_metrics({"tokens": report.tokens, "coverage": report.coverage})
    return PrunedBase(model=Artifact.of("pruned base", out), report=report)


@step
def pretrain_base(step: StepContext, base: Artifact, texts: Artifact, recipe: TrainingRecipe) -> PretrainedBase:
    """Language modelling on ``texts``, with losses, curve and history logged to a nested MLflow run."""
    out = step.folder / "model"
    step.folder.mkdir(parents=True, exist_ok=True)
    with stage_run(step.run_id, "pretraining") as log:
        log.log_params(recipe.model_dump() | {"texts_sha256": texts.sha256})
        history = pretrain(base.verify(), out, read_texts([texts.verify()]), recipe, on_metric=log.log_metric)
        log.log_artifact(plot_losses(history, step.folder / "losses.png", title="pretraining"))
        log.log_artifact(history_file(out))
        log.log_metrics({"tokens": history.tokens, "training_seconds": history.seconds}, step=history.steps)
    return PretrainedBase(model=Artifact.of("pretrained base", out), history=history)


@step
def prune_depth(
    step: StepContext, base: Artifact, snapshot: Snapshot, recipe: DepthRecipe, prompt: Prompt
) -> ShallowBase:
    """Measured on the records that are validated with: a trained base knows those that it was trained on by heart."""
    records = snapshot.records("validation") or snapshot.records("train")
    out = step.folder / "model"
    with stage_run(step.run_id, "depth") as log:
        log.log_params(recipe.model_dump())
        report = drop_layers(base.verify(), out, records, snapshot.label_set, recipe, prompt=prompt)
        report_file = step.folder / "depth.json"
        write_text(report_file, report.model_dump_json(indent=2) + "\n")
        log.log_artifact(report_file)
        log.log_metrics({"loss": report.loss, "loss_without": report.removals[-1].loss})
    return ShallowBase(model=Artifact.of("shallow base", out), report=report)


@task
def plan_training(
    stage: str,
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    prompt: Prompt,
    kept: Path,
    *,
    teacher: Artifact | None = None,
    distill: DistillRecipe | None = None,
) -> TrainingRecipe:
    """``recipe`` with its arithmetic, which is measured once for each processor and found again in ``kept``.

    Args:
        teacher: a model of the shapes that the teacher will have.

    Raises:
        UsageError: a record is too long, or the training clearly does not fit into memory.
    """
    shapes = _shapes(base)
    recipe = decided(shapes, recipe, kept=kept, title=stage)
    beside = Teacher(_shapes(teacher), distill.beside(recipe).bits) if teacher and distill else None
    batch = _largest_batch(base, snapshot, recipe, prompt)
    require_memory(training_memory(shapes, recipe, batch, beside), recipe, title=stage)
    return recipe


@task
def plan_pretraining(base: Artifact, recipe: TrainingRecipe, kept: Path) -> TrainingRecipe:
    """The same for training on texts, every token of which counts."""
    shapes = _shapes(base)
    recipe = decided(shapes, recipe, kept=kept, title="pretraining")
    tokens = recipe.batch_size * recipe.max_tokens
    require_memory(training_memory(shapes, recipe, Batch(tokens, tokens)), recipe, title="pretraining")
    return recipe


def _shapes(base: Artifact) -> Shapes:
    return describe(read_json(base.path / "config.json")).tensor_shapes


def _largest_batch(base: Artifact, snapshot: Snapshot, recipe: TrainingRecipe, prompt: Prompt) -> Batch:
    """A forward pass whose records are all as long as the longest."""
    labels = snapshot.label_set

    def characters(record: Record) -> int:
        return len(record.command) + len(answer_text(record.response, labels, compact=prompt.compact))

    longest = max(snapshot.records("train"), key=characters)
    (example,) = build_examples([longest], load_tokenizer(base.path), prompt, labels, max_tokens=recipe.max_tokens)
    tokens = len(example.input_ids)
    return Batch(recipe.batch_size * tokens, recipe.batch_size * (tokens - example.prompt_length))
