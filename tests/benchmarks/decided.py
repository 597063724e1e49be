"""What a retrain would decide on this machine, for benchmarks."""

from pathlib import Path
from tempfile import gettempdir

from flows.settings import Profile
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.training.precision import choose, decided


def decided_profile(profile: Profile, base: Path, kept: Path) -> Profile:
    """``profile`` with the arithmetic that is fast for models of the shapes of ``base``; ``kept`` as in a home."""
    shapes = describe(read_json(base / "config.json")).tensor_shapes
    teacher, student = (
        decided(shapes, settings.training, kept=kept, title=title)
        for title, settings in (("teacher", profile.teacher), ("student", profile.student))
    )
    return profile.with_recipes(teacher, student, profile.student.distill.beside(student))


def trains_in_bf16(base: Path) -> bool:
    """Whether this machine trains the model in ``base`` in bfloat16: one answer for all processes of a benchmark."""
    shapes = describe(read_json(base / "config.json")).tensor_shapes
    return choose(shapes, kept=Path(gettempdir()) / "gemmill-benchmarks").precision == "bf16"
