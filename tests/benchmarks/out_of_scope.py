"""What a calibration on folds is worth: out of scope and confidence over all labelled records of a dataset.

    python -m tests.benchmarks.out_of_scope PROFILE DATA --home FOLDER [--folds 5] [--max-steps N] [--near FILE]

For each fold the teacher of PROFILE is trained on the records of the others and asked those of its own, grounded, in
Q8_0 by llama.cpp. Its scores are calibrated on the answers of the other folds' models, so that no record is judged by a
threshold that it helped to choose. FILE holds records that are near the plant's work and out of scope; each is asked
one of the models. What is there already in FOLDER is kept: a run that was cut short goes on.
"""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from data_checks.contract import read_jsonl
from data_checks.sources import find_files, read_with_inferred_labels
from deployment.answers.doubt import Doubt
from deployment.answers.rules import learn_rules
from deployment.runtimes.decoding import AnswerLimits
from flows.settings import Profile, load_profile
from registry.files import write_text
from registry.records import LabelSet, Record
from tasks.bases.resolve import resolve_base
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.doubt.calibration import calibrate
from tasks.doubt.cross_fitting import ask_grounded, train_fold
from tasks.doubt.folds import Fold, folds
from tasks.doubt.report import doubt_table, pooled_report
from tasks.doubt.scores import ScoredAnswer, scored_answers
from tasks.training.precision import decided

SEED = 1
_ANSWERS = TypeAdapter(list[ScoredAnswer])


def file_of(fold: Fold, place: Path, labels: LabelSet, profile: Profile, *, base: Path, max_steps: int | None) -> Path:
    """The model of ``fold``."""
    gguf = place / "model.gguf"
    if gguf.exists():
        return gguf
    place.mkdir(parents=True, exist_ok=True)
    shapes = describe(read_json(base / "config.json")).tensor_shapes
    recipe = decided(shapes, profile.teacher.training, kept=place.parent / "precision", title=place.name)
    return train_fold(
        fold,
        gguf,
        base=base,
        labels=labels,
        prompt=profile.prompt,
        recipe=recipe.model_copy(update={"max_steps": max_steps or recipe.max_steps}),
        title=place.name,
        on_metric=lambda name, value, step: None,
    )


def answers_of(
    kept: Path, gguf: Path, fold: Fold, records: Sequence[Record], labels: LabelSet, profile: Profile, threads: int
) -> list[ScoredAnswer]:
    """The answers of the fold's model to ``records``, from ``kept`` where they are there."""
    if not kept.exists():
        rules = learn_rules(fold.train, labels, grounded_min=profile.answers.grounded_min)
        predictions = ask_grounded(
            gguf,
            records,
            labels=labels,
            rules=rules,
            prompt=profile.prompt,
            limits=AnswerLimits(),
            threads=threads,
            slots=1,
        )
        write_text(kept, _ANSWERS.dump_json(scored_answers(records, predictions)).decode())
    return _ANSWERS.validate_json(kept.read_bytes())


def decided_by(answer: ScoredAnswer, doubt: Doubt) -> ScoredAnswer:
    """The answer as the package would give it: out of scope by its score, too."""
    rejected = answer.rejected or answer.out_of_scope.score >= doubt.out_of_scope_from
    return answer.model_copy(update={"rejected": rejected})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("data", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--near", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    rows, labels = read_with_inferred_labels("folds", find_files([arguments.data]))
    records = [row.record for row in rows]
    labels = labels.learnt(record.response for record in records)
    near = read_jsonl(arguments.near)[0] if arguments.near else []
    base = resolve_base(profile.teacher.base, arguments.home / "bases", records=records, labels=labels, key="folds")
    far_answers, near_answers = [], []
    for number, fold in enumerate(folds(records, arguments.folds, seed=SEED), start=1):
        place = arguments.home / f"fold-{number}"
        gguf = file_of(fold, place, labels, profile, base=base, max_steps=arguments.max_steps)
        asked = (gguf, fold)
        own = (labels, profile, arguments.threads)
        far_answers.append(answers_of(place / "answers.json", *asked, fold.held_out, *own))
        part = near[number - 1 :: arguments.folds]
        near_answers.append(answers_of(place / "near.json", *asked, part, *own) if part else [])
    far, beside = [], []
    for place, answers in enumerate(far_answers):
        others = chain.from_iterable(far_answers[:place] + far_answers[place + 1 :])
        budgets = {"false_rejects": profile.answers.false_rejects, "ask_below": profile.answers.ask_below}
        doubt = calibrate(list(others), source=f"{arguments.folds - 1} other folds", **budgets)
        if doubt is None:
            parser.error("there are too few records in scope or out of it")
        far += [(decided_by(answer, doubt), doubt) for answer in answers]
        inside = [answer for answer in answers if not answer.out_of_scope.right]
        beside += [(decided_by(answer, doubt), doubt) for answer in [*inside, *near_answers[place]]]
    reports = {f"{len(far):,} records": pooled_report(far)}
    if near:
        reports[f"in scope, and {len(near):,} near it"] = pooled_report(beside)
    Console(width=140).print(doubt_table(reports))


if __name__ == "__main__":
    main()
