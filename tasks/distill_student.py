"""Distil the teacher into the student, on the grid of the file that ships where the recipe says so."""

from deployment.prompt import Prompt
from registry.artifacts import Artifact
from registry.snapshots import Snapshot
from tasks.quant.types import QuantType
from tasks.steps import Place, step
from tasks.train_teacher import TRAINING_CODE, TrainedModel, train_stage
from tasks.training.recipe import DistillRecipe, TrainingRecipe


@step(*TRAINING_CODE)
def distill_student(
    base: Artifact,
    teacher: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    distill: DistillRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
    place: Place,
) -> TrainedModel:
    return train_stage(
        "student", base, snapshot, recipe, prompt, weights, embedding, place, teacher=teacher, distill=distill
    )
