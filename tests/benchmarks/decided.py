"""A profile as a retrain would run it on this machine."""

from pathlib import Path

from flows.settings import Profile
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.training.precision import decided


def decided_profile(profile: Profile, base: Path, kept: Path) -> Profile:
    """``profile`` with the arithmetic that is fast for models of the shapes of ``base``; ``kept`` as in a home."""
    shapes = describe(read_json(base / "config.json")).tensor_shapes
    teacher, student = (
        decided(shapes, settings.training, kept=kept, title=title)
        for title, settings in (("teacher", profile.teacher), ("student", profile.student))
    )
    return profile.with_recipes(teacher, student, profile.student.distill.beside(student))
