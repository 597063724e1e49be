"""What a retrain trains from, and what its recipes leave to the machine that trains."""

from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from flows.run import Run
from registry.artifacts import Artifact
from registry.records import SPLITS
from tasks.bases.spec import TeacherBase
from tasks.depth.pruning import require_prunable
from tasks.evaluation.lengths import longest
from tasks.prepare import plan_pretraining, plan_training, prepare_base, pretrain_base, prune_vocabulary


class Bases(NamedTuple):
    """What is trained from; ``origin`` is the student's before tokens were dropped and texts read."""

    origin: Artifact
    teacher: Artifact
    student: Artifact


def prepare(run: Run) -> Bases:
    """The weights from which teacher and student start; the student may start from what the teacher becomes.

    Raises UsageError, before anything is trained, where the student's base goes less far than the longest command and
    answer, or cannot be pruned as the profile asks.
    """
    settings, snapshot = run.settings, run.snapshot
    student_spec = settings.student.base
    of_teacher = isinstance(student_spec, TeacherBase)
    base = prepare_base(settings.teacher.base, snapshot, run.home.bases)
    origin = base if of_teacher else prepare_base(student_spec, snapshot, run.home.bases)
    if settings.student.depth:
        require_prunable(origin.path, settings.student.depth)
    records = list(chain.from_iterable(map(snapshot.records, SPLITS)))
    settings.evaluation.limits(longest(origin.path, records, snapshot.label_set, settings.prompt))
    teacher = _adapted(run, base, "teacher")
    return Bases(origin, teacher, teacher if of_teacher else _adapted(run, origin, "student"))


def plan(run: Run, bases: Bases) -> Run:
    """``run`` with nothing left to the machine, so that what it chose is part of the steps' keys, and logged."""
    settings, snapshot, kept = run.settings, run.snapshot, run.home.precision
    distill = settings.student.distill
    teacher = plan_training("teacher", bases.teacher, snapshot, settings.teacher.training, settings.prompt, kept)
    student = plan_training(
        "student",
        bases.student,
        snapshot,
        settings.student.training,
        settings.prompt,
        kept,
        teacher=bases.teacher,
        distill=distill,
    )
    distill = distill.beside(student)
    chosen = {"teacher": teacher.precision, "student": student.precision, "teacher_bits": distill.bits}
    run.log.log_params({"chosen": chosen})
    return replace(run, settings=settings.with_recipes(teacher, student, distill))


def _adapted(run: Run, base: Artifact, stage: str) -> Artifact:
    """The weights from which training starts: ``base`` with the plant's tokens and language where the profile asks."""
    settings = run.settings
    if settings.vocabulary:
        base = run.steps.run(
            prune_vocabulary.titled(f"prune {stage} vocabulary"),
            base=base,
            snapshot=run.snapshot,
            texts=run.texts,
            recipe=settings.vocabulary,
            prompt=settings.prompt,
        ).model
    if settings.pretraining and run.texts:
        recipe = plan_pretraining(base, settings.pretraining, run.home.precision)
        pretrain = pretrain_base.titled(f"pretrain {stage} base")
        base = run.steps.run(pretrain, base=base, texts=run.texts, recipe=recipe).model
    return base
