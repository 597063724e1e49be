"""The inspection of a model as one HTML file: findings, figures and tables, nothing fetched, no script."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from registry.files import write_text
from tasks.forensics import plots
from tasks.forensics.comparison import RATIO_MAX, compare_outliers
from tasks.forensics.statistics import ModelStatistics
from tasks.forensics.tables import furthest, short_name
from tasks.reports.figures import embedded
from tasks.reports.page import render

_TEMPLATE = Path(__file__).parent / "templates" / "inspection.html.j2"


def write_report(
    path: Path,
    candidate: ModelStatistics,
    baselines: Mapping[str, ModelStatistics],
    *,
    ratio_max: float = RATIO_MAX,
) -> None:
    """Write the report of ``candidate`` beside ``baselines`` by name, such as base and champion, or none."""
    comparisons = {name: compare_outliers(candidate, model, ratio_max=ratio_max) for name, model in baselines.items()}
    page = render(
        _TEMPLATE,
        candidate=candidate,
        baselines=baselines,
        comparisons=comparisons,
        changes={name: {norm.tensor: norm for norm in comparison.norms} for name, comparison in comparisons.items()},
        ratio_max=ratio_max,
        pooled=_pooled_gains(candidate),
        nonfinite=[tensor.name for tensor in candidate.tensors if tensor.nonfinite],
        weights=furthest(candidate),
        short_name=short_name,
        figures=_figures(candidate, baselines, ratio_max),
    )
    write_text(path, page)


def _pooled_gains(statistics: ModelStatistics) -> dict[str, float]:
    gains = plots.gain_magnitudes(statistics)
    if not gains.size:
        return dict.fromkeys(("max", "p999", "mean"), 0.0)
    return {
        "max": float(gains.max()),
        "p999": float(np.quantile(gains, 0.999, method="inverted_cdf")),
        "mean": float(gains.mean()),
    }


def _figures(candidate: ModelStatistics, baselines: Mapping[str, ModelStatistics], ratio_max: float) -> dict[str, str]:
    drawn = {
        "gains": plots.gain_heat_map(candidate),
        "weights": plots.weight_heat_map(candidate),
        "histogram": plots.gain_histogram({"candidate": candidate, **baselines}),
    }
    for name, baseline in baselines.items():
        drawn[f"scatter {name}"] = plots.gain_scatter(candidate, baseline, ratio_max=ratio_max, name=name)
    return {name: embedded(figure) for name, figure in drawn.items()}
