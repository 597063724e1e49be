"""Hold what was measured against the thresholds of the profile and against the champion."""

from collections.abc import Mapping

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.evaluation.metrics import Metrics
from tasks.forensics.comparison import OutlierComparison
from tasks.gates.judge import Verdict, judge
from tasks.gates.report import verdict_markdown
from tasks.gates.thresholds import Thresholds


@task
def judge_gates(
    candidate: Metrics,
    champion: Metrics | None,
    champion_name: str | None,
    outliers_vs_base: OutlierComparison,
    outliers_vs_champion: OutlierComparison | None,
    checks: Mapping[str, bool],
    thresholds: Thresholds,
) -> Verdict:
    """The verdict on the candidate, also as a Prefect artifact; it is for the flow to act on it."""
    verdict = judge(
        candidate=candidate.model_dump(),
        champion=champion.model_dump() if champion else None,
        champion_name=champion_name,
        outliers_vs_base=outliers_vs_base,
        outliers_vs_champion=outliers_vs_champion,
        checks=checks,
        thresholds=thresholds,
    )
    create_markdown_artifact(key="gates", markdown=verdict_markdown(verdict))
    return verdict
