"""Figures of norm gains and weights: heat maps by layer, a histogram, candidate over baseline."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tasks.forensics.statistics import ModelStatistics, TensorStatistics

# The order in which a Gemma block applies them; other parts follow by name.
_PART_ORDER = (
    "input_layernorm",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_INK, _FAINT, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_SERIES = ("#c2410c", "#1d4ed8", "#0f766e", "#7c3aed")
_HEAT = LinearSegmentedColormap.from_list(
    "heat", ["#fffaf0", "#fde4b8", "#fbb26a", "#ee6c3c", "#c22f2f", "#6d0f2f"]
).with_extremes(bad="#f1f3f5")
_STYLE = {"fontsize": 9, "color": _INK}
_SMALLEST_GAIN = 1e-3  # smaller ones are drawn here, so that zero has a place on a logarithmic axis


def gain_heat_map(statistics: ModelStatistics, *, title: str = "Largest norm gain") -> Figure:
    """Largest gain of every norm, layers across, on a logarithmic colour scale."""
    cells = {(norm.part, norm.layer): norm.gains.max_abs for norm in statistics.norms if norm.gains}
    outside = [norm for norm in statistics.norms if norm.layer is None]
    note = ", ".join(f"{norm.part.split('.')[-1]} after the last layer: {_gain(norm)}" for norm in outside)
    return _heat_map(cells, title=title, note=note, scale="largest |gain| of a channel")


def weight_heat_map(statistics: ModelStatistics, *, title: str = "Largest weight") -> Figure:
    """Largest magnitude of every weight matrix, layers across, on a logarithmic colour scale."""
    cells = {(tensor.part, tensor.layer): tensor.max_abs for tensor in statistics.weights}
    outside = [tensor for tensor in statistics.weights if tensor.layer is None]
    note = ", ".join(f"{tensor.part.split('.')[-1]}: {_number(tensor.max_abs)}" for tensor in outside)
    return _heat_map(cells, title=title, note=note, scale="largest |w|")


def gain_histogram(models: Mapping[str, ModelStatistics]) -> Figure:
    """How the gains of all norms are distributed, one line for each model; the first is filled."""
    gains = {name: gain_magnitudes(model) for name, model in models.items()}
    figure, axes = _figure(9.0, 3.8, title="Gains of all channels of all norms")
    if not any(values.size for values in gains.values()):
        return _nothing(figure, axes)
    bins = np.geomspace(_SMALLEST_GAIN, 1.3 * max(values.max(initial=1.0) for values in gains.values()), 90)
    for index, (name, values) in enumerate(gains.items()):
        colour = _SERIES[index % len(_SERIES)]
        counts, _ = np.histogram(np.maximum(values, bins[0]), bins)
        axes.stairs(counts, bins, color=colour, fill=index == 0, alpha=0.35 if index == 0 else 1, linewidth=0)
        axes.stairs(
            counts,
            bins,
            color=colour,
            linewidth=1.4,
            linestyle="-" if index == 0 else (0, (4, 2)),
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlim=(bins[0], bins[-1]), ylim=(0.7, None))
    axes.set_xlabel(f"|gain|, the first bar holds all up to {_SMALLEST_GAIN:g}", **_STYLE)
    axes.set_ylabel("channels", **_STYLE)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def gain_scatter(
    candidate: ModelStatistics, baseline: ModelStatistics, *, ratio_max: float, name: str = "baseline"
) -> Figure:
    """Every channel's gain in the candidate over the baseline's; on the diagonal it is inherited."""
    before, after, typical = _gain_pairs(candidate, baseline)
    grown = after > ratio_max * np.maximum(before, typical)
    before, after = np.maximum(before, _SMALLEST_GAIN), np.maximum(after, _SMALLEST_GAIN)
    figure, axes = _figure(5.4, 5.2, title=f"Gains, candidate over {name}")
    limits = np.array([0.8 * _SMALLEST_GAIN, 1.5 * float(max(before.max(initial=1), after.max(initial=1)))])
    axes.fill_between(limits, limits / ratio_max, limits * ratio_max, color="#dbeafe", linewidth=0)
    axes.plot(limits, limits, color="#60a5fa", linewidth=0.8)
    axes.scatter(before[~grown], after[~grown], s=5, color=_SERIES[1], alpha=0.35, linewidths=0)
    axes.scatter(before[grown], after[grown], s=16, color=_SERIES[0], alpha=0.8, linewidths=0)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"|gain| in {name}", **_STYLE)
    axes.set_ylabel("|gain| in the candidate", **_STYLE)
    found = f"{int(grown.sum())} of {grown.size} channels grew by more than ×{ratio_max:g}"
    axes.text(0.03, 0.97, found, transform=axes.transAxes, va="top", fontsize=8.5, color=_FAINT)
    return figure


def _gain_pairs(candidate: ModelStatistics, baseline: ModelStatistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By channel: magnitude in the baseline, magnitude in the candidate, median of the baseline's norm."""
    theirs = {norm.name: norm.gains for norm in baseline.norms if norm.gains}
    columns: list[np.ndarray] = [np.zeros((0, 3))]
    for norm in candidate.norms:
        other = theirs.get(norm.name)
        if norm.gains and other and len(other.values) == len(norm.gains.values):
            typical = np.full(len(other.values), other.median_abs or 1.0)
            columns.append(np.column_stack([np.abs(other.values), np.abs(norm.gains.values), typical]))
    pairs = np.concatenate(columns)
    before, after, typical = pairs[np.isfinite(pairs).all(axis=1)].T
    return before, after, typical


def _heat_map(cells: Mapping[tuple[str, int | None], float], *, title: str, note: str, scale: str) -> Figure:
    inside = {(part, layer): value for (part, layer), value in cells.items() if layer is not None}
    parts = sorted({part for part, _ in inside}, key=_part_rank)
    layers = sorted({layer for _, layer in inside})
    values = np.ma.masked_all((len(parts), len(layers)))
    for (part, layer), value in inside.items():
        values[parts.index(part), layers.index(layer)] = max(value, 1e-6)
    figure, axes = _figure(2.9 + 0.56 * len(layers), 1.5 + 0.4 * len(parts), title=title, note=note)
    if not values.count():
        return _nothing(figure, axes)
    low, high = float(values.min()), float(values.max())
    norm = LogNorm(low, max(high, low * 10))
    image = axes.imshow(values, cmap=_HEAT, norm=norm, aspect="auto")
    _annotate(axes, values, norm)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(parts)), [part.removeprefix("self_attn.").removeprefix("mlp.") for part in parts])
    axes.set_xlabel("layer", **_STYLE)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.012, fraction=0.025)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] - a spine, not a list of them
    bar.set_label(scale, fontsize=8, color=_FAINT)
    marks = np.geomspace(norm.vmin or low, norm.vmax or high, 4)
    bar.set_ticks(list(marks), labels=[_number(mark) for mark in marks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8, colors=_FAINT, length=0)
    return figure


def _annotate(axes: Axes, values: np.ma.MaskedArray, norm: LogNorm) -> None:
    for row, column in np.argwhere(~np.ma.getmaskarray(values)):
        value = float(values[row, column])
        shade = "white" if norm(value) > 0.55 else _INK
        axes.text(column, row, _number(value), ha="center", va="center", fontsize=7.5, color=shade)
    edges = np.arange(max(values.shape) + 1) - 0.5
    axes.set_xticks(edges[: values.shape[1] + 1], minor=True)
    axes.set_yticks(edges[: values.shape[0] + 1], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.6)
    axes.tick_params(which="minor", length=0)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=_INK, linewidth=1.6, zorder=3))


def _figure(width: float, height: float, *, title: str, note: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=_INK, pad=10)
    if note:
        axes.set_title(note, loc="right", fontsize=8.5, color=_FAINT, pad=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    return figure, axes


def _part_rank(part: str) -> tuple[int, str]:
    return (_PART_ORDER.index(part) if part in _PART_ORDER else len(_PART_ORDER)), part


def _nothing(figure: Figure, axes: Axes) -> Figure:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to show", ha="center", transform=axes.transAxes, **_STYLE)
    return figure


def gain_magnitudes(model: ModelStatistics) -> np.ndarray:
    """The finite gains of all channels of all norms, without their signs."""
    values: list[Sequence[float]] = [norm.gains.values for norm in model.norms if norm.gains]
    gains = np.abs(np.concatenate(values)) if values else np.zeros(0)
    return gains[np.isfinite(gains)]


def _gain(norm: TensorStatistics) -> str:
    return _number(norm.gains.max_abs) if norm.gains else "–"


def _number(value: float) -> str:
    """Short enough for a cell."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"
