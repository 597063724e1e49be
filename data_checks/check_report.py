"""What came of checking a snapshot."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.errors import DataRefused


class CheckedExpectation(BaseModel):
    """One expectation, what it wants and what was seen."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    observed: str
    expected: str


class CheckReport(BaseModel):
    """Every expectation of a snapshot; ``data_docs`` is the page to open."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    expectations: list[CheckedExpectation]
    data_docs: Path


class SnapshotRefused(DataRefused):
    """A snapshot that breaks an expectation; ``report`` says which."""

    def __init__(self, snapshot: Path, report: CheckReport) -> None:
        failed = [check for check in report.expectations if not check.passed]
        found = "; ".join(f"{check.name} (wanted {check.expected}, found {check.observed})" for check in failed)
        super().__init__(f"{snapshot} is not fit for training: {found}. See {report.data_docs}.")
        self.report = report
