"""Statistics and comparisons as rich tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from tasks.forensics.comparison import RATIO_MAX, Change, compare_outliers
from tasks.forensics.statistics import ModelStatistics, TensorStatistics

_TOP = 15
_COLOURS = {Change.INHERITED: "green", Change.SHRUNK: "green"}


def nonfinite_table(statistics: ModelStatistics) -> Table | None:
    """Every tensor that holds NaN or infinity, the other tables being of finite entries; None where none does."""
    broken = [tensor for tensor in statistics.tensors if tensor.nonfinite]
    if not broken:
        return None
    table = _table(f"NaN or infinity in {len(broken)} of {len(statistics.tensors)} tensors, {_shown(broken)}")
    table.title_style = "bold red"
    for column in ("entries", "of"):
        table.add_column(column, justify="right")
    for tensor in sorted(broken, key=lambda tensor: -tensor.nonfinite)[:_TOP]:
        table.add_row(escape(tensor.name), f"[red]{tensor.nonfinite:,}[/]", f"{tensor.entries:,}")
    return table


def norm_table(statistics: ModelStatistics) -> Table:
    """The norms with the largest gains."""
    table = _table(f"norms with the largest gain, {_shown(statistics.norms)}")
    for column in ("gain", "channel", "max |w|", "p99.9 |w|", "mean |w|", "std", "outliers"):
        table.add_column(column, justify="right")
    for norm in _largest(statistics)[:_TOP]:
        if norm.gains:
            table.add_row(
                escape(short_name(norm)),
                f"{norm.gains.max_abs:.6g}",
                str(norm.gains.channel),
                *(f"{value:.5g}" for value in (norm.max_abs, norm.p999_abs, norm.mean_abs, norm.std)),
                _count(norm.outliers),
            )
    return table


def weight_table(statistics: ModelStatistics) -> Table:
    """The weight matrices with the largest entries, in robust standard deviations of their own."""
    table = _table(f"weights that reach furthest beyond their typical entry, {_shown(statistics.weights)}")
    for column in ("type", "max |w|", "p99.9 |w|", "mean |w|", "std", "outliers", "of"):
        table.add_column(column, justify="right")
    for tensor in furthest(statistics)[:_TOP]:
        table.add_row(
            escape(short_name(tensor)),
            tensor.dtype,
            *(f"{value:.4g}" for value in (tensor.max_abs, tensor.p999_abs, tensor.mean_abs, tensor.std)),
            _count(tensor.outliers),
            f"{tensor.entries:,}",
        )
    return table


def comparison_table(
    candidate: ModelStatistics, baselines: Mapping[str, ModelStatistics], *, ratio_max: float = RATIO_MAX
) -> Table:
    """The candidate's largest gains beside those of other models, such as the base and the champion.

    ``ratio`` is that of the channel that grew most; norms that changed come first.
    """
    changes = {
        name: {norm.tensor: norm for norm in compare_outliers(candidate, model, ratio_max=ratio_max).norms}
        for name, model in baselines.items()
    }

    def rank(norm: TensorStatistics) -> tuple[bool, float]:
        kept = all(found[norm.name].change in _COLOURS for found in changes.values())
        return kept, -(norm.gains.max_abs if norm.gains else 0.0)

    table = _table("largest gains side by side")
    table.add_column("candidate", justify="right")
    for name in baselines:
        table.add_column(name, justify="right")
        table.add_column("ratio", justify="right")
        table.add_column("")
    for norm in sorted(candidate.norms, key=rank)[:_TOP]:
        cells = [f"{norm.gains.max_abs:.6g}" if norm.gains else "–"]
        for found in changes.values():
            change = found[norm.name]
            colour = _COLOURS.get(change.change, "bold red")
            cells += [_figure(change.baseline_max_gain, ".6g"), _figure(change.ratio, ".3g")]
            cells.append(f"[{colour}]{change.change}[/]")
        table.add_row(escape(short_name(norm)), *cells)
    return table


def furthest(statistics: ModelStatistics) -> list[TensorStatistics]:
    """Weight matrices by how far their largest entry is from a typical one, furthest first."""
    return sorted(statistics.weights, key=lambda tensor: -tensor.max_abs / (tensor.median_abs or 1.0))


def short_name(tensor: TensorStatistics) -> str:
    """``16 post_feedforward_layernorm``: the layer's number and the part."""
    return tensor.part if tensor.layer is None else f"{tensor.layer:>2} {tensor.part}"


def _largest(statistics: ModelStatistics) -> list[TensorStatistics]:
    return sorted(statistics.norms, key=lambda norm: -(norm.gains.max_abs if norm.gains else 0.0))


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("tensor", no_wrap=True)
    return table


def _shown(tensors: Sequence[object]) -> str:
    return f"{min(_TOP, len(tensors))} of {len(tensors)}"


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _count(outliers: int) -> str:
    return f"{outliers:,}"
