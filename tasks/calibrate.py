"""Calibrate: what the scores of the file's answers mean, from answers to records that it was not trained on."""

import shutil

from pydantic import BaseModel, ConfigDict

from deployment.answers.rules import AnswerRules
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import AnswerLimits
from registry.artifacts import Artifact
from registry.models import stage_run
from registry.records import SPLITS
from registry.store.snapshots import Snapshot
from tasks.doubt.cross_fitting import ask_grounded, train_fold
from tasks.doubt.folds import folds
from tasks.doubt.scores import ScoredAnswer, scored_answers
from tasks.steps import StepContext, step
from tasks.training.recipe import TrainingRecipe

_TRAINED = tuple(split for split in SPLITS if split != "test")


class ScoredAnswers(BaseModel):
    """Answers with their scores, and which rows were asked."""

    model_config = ConfigDict(frozen=True)

    answers: list[ScoredAnswer]
    source: str


@step
def score_validation(
    step: StepContext,
    gguf: Artifact,
    snapshot: Snapshot,
    rules: AnswerRules,
    prompt: Prompt,
    limits: AnswerLimits,
    threads: int,
    slots: int,
) -> ScoredAnswers:
    """Grounded answers of the file that ships to the rows that it was validated with."""
    records = snapshot.records("validation")
    predictions = ask_grounded(
        gguf.verify(),
        records,
        labels=snapshot.label_set,
        rules=rules,
        prompt=prompt,
        limits=limits,
        threads=threads,
        slots=slots,
    )
    return ScoredAnswers(answers=scored_answers(records, predictions), source="validation rows")


@step
def score_fold(
    step: StepContext,
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    number: int,
    of: int,
    rules: AnswerRules,
    prompt: Prompt,
    limits: AnswerLimits,
    threads: int,
    slots: int,
) -> ScoredAnswers:
    """Grounded answers to fold ``number``, from 1, of the rows that are trained on or validated with, by a model that
    was trained as the teacher is on the others."""
    records = [record for split in _TRAINED for record in snapshot.records(split)]
    fold = folds(records, of, seed=recipe.seed)[number - 1]
    step.folder.mkdir(parents=True, exist_ok=True)
    with stage_run(step.run_id, f"fold {number}") as log:
        gguf = train_fold(
            fold,
            step.folder / "model.gguf",
            base=base.verify(),
            labels=snapshot.label_set,
            prompt=prompt,
            recipe=recipe,
            title=f"fold {number} of {of}",
            on_metric=log.log_metric,
        )
        predictions = ask_grounded(
            gguf,
            fold.held_out,
            labels=snapshot.label_set,
            rules=rules,
            prompt=prompt,
            limits=limits,
            threads=threads,
            slots=slots,
        )
    shutil.rmtree(step.folder / "model")  # gigabytes that nothing asks again
    gguf.unlink()
    return ScoredAnswers(
        answers=scored_answers(fold.held_out, predictions), source=f"{of} folds of the training and validation rows"
    )
