"""What a retrain leaves behind, as the JSON of ``--summary``."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.artifacts import Artifact
from registry.errors import GateBlocked
from tasks.evaluation.metrics import Metrics
from tasks.gates.judge import Gate


class Answer(BaseModel):
    """A command, what the shipped file said to it, and what it should have said."""

    model_config = ConfigDict(frozen=True)

    command: str
    answer: str
    expected: str
    ok: bool  # the same response, whatever the order of its entities


class RetrainSummary(BaseModel):
    """The stable schema of ``gemmill retrain --summary``."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    profile: str
    run_id: str
    model_name: str
    model_version: int
    aliases: list[str]
    passed: bool
    snapshot: dict[str, Any]
    artifacts: list[Artifact]
    metrics: dict[str, Metrics]
    gates: list[Gate]
    answers: list[Answer]  # to the golden commands
    worst: list[Answer]  # wrong ones of the test split: no JSON first, then the wrong intent, then wrong entities
    reports: dict[str, Path]  # evaluation of the shipped file, weight forensics, data checks: HTML pages
    seconds: dict[str, float]
    reused: list[str]


class CandidateBlocked(GateBlocked):
    """The candidate was registered with its verdict and got no further; ``summary`` is the retrain's."""

    def __init__(self, message: str, summary: RetrainSummary) -> None:
        super().__init__(message)
        self.summary = summary
