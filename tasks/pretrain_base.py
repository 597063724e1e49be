"""Accustom a base to the plant's language, on unlabelled texts."""

from data_checks.texts import read_texts
from registry.artifacts import Artifact
from registry.models import stage_run
from tasks.steps import Place, step
from tasks.train_teacher import TRAINING_CODE, TrainedModel
from tasks.training.fit import HISTORY_FILE
from tasks.training.plots import plot_losses
from tasks.training.pretrain import pretrain
from tasks.training.recipe import TrainingRecipe


@step(*TRAINING_CODE, "data_checks/quarantine.py", "data_checks/texts.py", "tasks/pretrain_base.py")
def pretrain_base(base: Artifact, texts: Artifact, recipe: TrainingRecipe, place: Place) -> TrainedModel:
    """Language modelling on ``texts``, with losses, curve and history logged to a nested MLflow run."""
    out = place.folder / "model"
    place.folder.mkdir(parents=True, exist_ok=True)
    with stage_run(place.run_id, "pretraining") as log:
        log.log_params(recipe.model_dump() | {"texts_sha256": texts.sha256})
        history = pretrain(base.verify(), out, read_texts([texts.verify()]), recipe, on_metric=log.log_metric)
        log.log_artifact(plot_losses(history, place.folder / "losses.png", title="pretraining"))
        log.log_artifact(out / HISTORY_FILE)
        log.log_metrics({"tokens": history.tokens, "training_seconds": history.seconds}, step=history.steps)
    return TrainedModel(model=Artifact.of("pretrained base", out), history=history)
