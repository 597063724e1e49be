"""What a package's recipients must be told about the weights in it."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence as a package carries it: LICENSE, NOTICE, and files that go beside them."""

    name: str
    text: str
    notice: str
    attachments: tuple[Path, ...] = ()


def gemma_licence(*, terms: tuple[Path, ...] = ()) -> Licence:
    """For weights that derive from Gemma; ``terms`` are copies of the Gemma Terms that came with the base."""
    return Licence(
        name="Gemma Terms of Use",
        text=_template("LICENSE.gemma.txt"),
        notice=_template("NOTICE.gemma.txt"),
        attachments=terms,
    )


def apache_licence() -> Licence:
    """For weights that were trained from scratch."""
    return Licence(name="Apache-2.0", text=_template("LICENSE.apache.txt"), notice=_template("NOTICE.apache.txt"))


def _template(name: str) -> str:
    return files("deployment").joinpath("templates", name).read_text(encoding="utf-8")
