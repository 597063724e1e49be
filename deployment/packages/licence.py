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


def gemma_licence(terms: Path | None = None) -> Licence:
    """For weights that derive from Gemma; ``terms`` is the copy of the Gemma Terms that came with the base."""
    copy = (
        f"The package holds a copy of the terms: {terms.name}."
        if terms
        else "The package holds no copy of the terms: add one before you hand it on."
    )
    return Licence(
        name="Gemma Terms of Use",
        text=f"{_template('LICENSE.gemma.txt')}\n{copy}\n",
        notice=_template("NOTICE.gemma.txt"),
        attachments=(terms,) if terms else (),
    )


def apache_licence(*, derived: bool) -> Licence:
    """For weights that were trained from scratch or, if ``derived``, from others under the same licence."""
    notice = _template("NOTICE.apache-derived.txt" if derived else "NOTICE.apache.txt")
    return Licence(name="Apache-2.0", text=_template("LICENSE.apache.txt"), notice=notice)


def licence_metadata(licence: str) -> dict[str, str]:
    """What a GGUF file says of the licence of its weights."""
    if licence != "gemma":
        return {"general.license": licence}
    return {
        "general.license": licence,
        "general.license.name": "Gemma Terms of Use",
        "general.license.link": "https://ai.google.dev/gemma/terms",
    }


def _template(name: str) -> str:
    return files("deployment.packages").joinpath("templates", name).read_text(encoding="utf-8")
