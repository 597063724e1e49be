"""gemmill's public face: what a program may import. Everything else may move between versions.

>>> import gemmill
>>> package = gemmill.load_package("package")       # every file checked against its SHA256SUMS
>>> with gemmill.AuditAssistant("package") as assistant:
...     answer = assistant.answer("Pump P-7 leaks at the shaft seal.")
>>> gemmill.parse_answer('{"intent": "out_of_scope", "entities": {}}')
Response(intent='out_of_scope', entities={})
"""

from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from deployment.answers.answer import Answer, Span
from deployment.answers.assistant import Assistant
from deployment.packages.package import Package, verify_package
from deployment.runtimes.decoding import Mode
from registry.errors import GemmillError
from registry.home import Home
from registry.records import LabelSet, Record, Response, parse_answer, response_schema

if TYPE_CHECKING:
    from deployment.answers.table import TableAssistant

__all__ = [
    "Answer",
    "AuditAssistant",
    "GemmillError",
    "LabelSet",
    "Package",
    "Record",
    "Response",
    "Span",
    "load_package",
    "parse_answer",
    "response_schema",
]
__version__ = metadata.version("gemmill")


class AuditAssistant(Assistant):
    """Answers audit commands, from opening to ``close``, or in a ``with`` or ``async with`` block.

    ``model`` is a package's folder, a ``.gguf`` file, ``models:/NAME@ALIAS``, ``ollama:NAME`` or the address of a
    llama-server or of any OpenAI-compatible server. ``decoding`` is "grounded", "schema" or "free"; None takes
    "grounded" where the model's labels are known, from its package or ``labels``, and "free" elsewhere. A file answers
    ``parallel`` commands at a time on ``threads`` cores, 0 for all that are of use. A grounded answer tells how sure it
    is where the package was calibrated, which takes time; ``confidence`` False leaves it out. ``home`` is for models of
    the registry: the folder of a gemmill home, else ``GEMMILL_HOME``, else ``.gemmill``. An instance may be shared by
    threads.

    Raises UsageError for a model that cannot be used, ServiceUnavailable for a server that is out of reach; both are
    a :class:`GemmillError`. A command that gets no answer raises nothing: its answer has a ``failure``.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        *,
        decoding: Mode | str | None = None,
        labels: str | PathLike[str] | None = None,
        threads: int = 0,
        parallel: int = 1,
        confidence: bool = True,
        home: str | PathLike[str] | None = None,
    ) -> None:
        from registry.models import local_model  # MLflow takes seconds to import

        located = local_model(str(model), Home.locate(Path(home) if home else None))
        super().__init__(
            located, decoding=decoding, labels=labels, threads=threads, parallel=parallel, confidence=confidence
        )


def load_package(folder: str | PathLike[str]) -> Package:
    """The package in ``folder``, once every file in it has the digest that SHA256SUMS lists.

    Raises UsageError, a :class:`GemmillError`, naming the first file that changed, is missing or is not listed.
    """
    return verify_package(Path(folder))


def _load_pyfunc(path: str) -> "TableAssistant":
    """The package in the folder ``path`` as MLflow's pyfunc flavour loads it; the MLmodel of a version names this."""
    from deployment.answers.table import TableAssistant  # pandas takes a while to import

    return TableAssistant(AuditAssistant(path, decoding=Mode.GROUNDED))
