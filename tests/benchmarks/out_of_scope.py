"""Doubt of models that were not trained on what they are asked: folds over all labelled records of a dataset.

    python -m tests.benchmarks.out_of_scope PROFILE DATA --home FOLDER [--folds 5] [--max-steps N]

For each fold the teacher of PROFILE is trained on the records of the others and asked those of its own, in Q8_0 by
llama.cpp. What is there already in FOLDER is kept, so that a run that was cut short goes on.
"""

import argparse
from pathlib import Path

from data_checks.sources import find_files, read_with_inferred_labels
from deployment.prompts.prompt import chat_template
from flows.settings import Profile, load_profile
from registry.records import LabelSet
from tasks.bases.resolve import resolve_base
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.doubt.folds import Fold, folds
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training.memory import Shapes
from tasks.training.precision import decided
from tasks.training.processes import TrainingJob, fit_in_processes

SEED = 1


def trained(fold: Fold, place: Path, labels: LabelSet, profile: Profile, *, base: Path, max_steps: int | None) -> Path:
    """The GGUF file of the model of ``fold``."""
    gguf, model = place / "model-q8_0.gguf", place / "model"
    if gguf.exists():
        return gguf
    if not model.exists():
        place.mkdir(parents=True, exist_ok=True)
        shapes: Shapes = describe(read_json(base / "config.json")).tensor_shapes
        recipe = decided(shapes, profile.teacher.training, kept=place.parent / "precision", title=place.name)
        recipe = recipe.model_copy(update={"max_steps": max_steps or recipe.max_steps})
        job = TrainingJob(
            base=base,
            out=model,
            train_records=fold.train,
            validation_records=fold.held_out[:50],
            labels=labels,
            prompt=profile.prompt,
            recipe=recipe,
            types={},
            title=place.name,
        )
        fit_in_processes(job, lambda name, value, step: None)
    export_gguf(
        model, gguf, weights=QuantType.Q8_0, embedding=QuantType.Q8_0, chat_template=chat_template(profile.prompt)
    )
    return gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("data", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--max-steps", type=int)
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    rows, labels = read_with_inferred_labels("folds", find_files([arguments.data]))
    records = [row.record for row in rows]
    labels = labels.learnt(record.response for record in records)
    base = resolve_base(profile.teacher.base, arguments.home / "bases", records=records, labels=labels, key="folds")
    for number, fold in enumerate(folds(records, arguments.folds, seed=SEED), start=1):
        place = arguments.home / f"fold-{number}"
        trained(fold, place, labels, profile, base=base, max_steps=arguments.max_steps)


if __name__ == "__main__":
    main()
