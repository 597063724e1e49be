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

from deployment.answers.answer import Answer, Span
from deployment.answers.assistant import AuditAssistant
from deployment.packages.package import Package, verify_package
from registry.errors import GemmillError
from registry.records import LabelSet, Record, Response, parse_answer, response_schema

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


def load_package(folder: str | PathLike[str]) -> Package:
    """The package in ``folder``, once every file in it has the digest that SHA256SUMS lists.

    Raises UsageError, a :class:`GemmillError`, naming the first file that changed, is missing or is not listed.
    """
    return verify_package(Path(folder))
