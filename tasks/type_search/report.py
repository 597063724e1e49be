"""A search for types as a terminal table, as JSON and as a page with size against accuracy."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from registry.files import write_text
from tasks.evaluation.metrics import METRIC_TITLES
from tasks.gates.thresholds import Thresholds
from tasks.reports.figures import embedded
from tasks.reports.page import megabytes, percent, render
from tasks.type_search.search import Outcome, TriedTypes, TypeSearch

_TEMPLATE = Path(__file__).parent / "templates" / "type_search.html.j2"
_METRICS = {name: METRIC_TITLES[name] for name in Thresholds.metrics()}
_COLOURS = {
    Outcome.CHOSEN: "#1d7a46",
    Outcome.FAILED: "#b3261e",
    Outcome.OVER_BUDGET: "#7b8794",
    Outcome.REFERENCE: "#1d4ed8",
}
_PLOTTED = ("exact_match", "entity_f1")
_MARKERS = {"exact_match": "o", "entity_f1": "s"}


def search_table(search: TypeSearch) -> Table:
    """One row for each pair of types, crosses at the metrics that failed; of what was not measured the size alone."""
    budget = "" if search.budget is None else f", budget {megabytes(search.budget)} MB"
    table = Table(title=escape(f"{search.model}{budget}"), title_justify="left")
    for column in ("weights", "embedding"):
        table.add_column(column)
    for column in ("MB", *_METRICS.values()):
        table.add_column(column, justify="right")
    table.add_column("", no_wrap=True)
    for tried in search.types:
        figures = [_cell(tried, name) for name in _METRICS]
        style = {Outcome.CHOSEN: "green", Outcome.FAILED: "red"}.get(tried.outcome)
        table.add_row(tried.weights, tried.embedding, megabytes(tried.bytes), *figures, tried.outcome, style=style)
    return table


def _cell(tried: TriedTypes, metric: str) -> str:
    if tried.metrics is None:
        return ""
    failed = any(gate.name.partition("_vs_")[0] == metric for gate in tried.failed)
    return f"{'✗ ' if failed else ''}{percent(getattr(tried.metrics, metric))}"


def write_search(search: TypeSearch, *, json_path: Path | None = None, html_path: Path | None = None) -> None:
    """Write the search in the forms that a path is given for."""
    if json_path is not None:
        write_text(json_path, search.model_dump_json(indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, search_html(search))


def search_html(search: TypeSearch) -> str:
    """A page that needs no network: the plot, then every pair of types with the gates that it failed."""
    figure = embedded(size_figure(search)) if search.measured else None
    return render(_TEMPLATE, search=search, metrics=_METRICS, figure=figure)


def size_figure(search: TypeSearch) -> Figure:
    """Exact match and entity F1 of the measured files, of which there is one at least, over their sizes; the budget."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel="MB", ylabel="share of the test records, %")
    measured = search.measured
    for name in _PLOTTED:
        points = [(tried, getattr(tried.metrics, name)) for tried in measured]
        known = [(tried, 100 * value) for tried, value in points if value is not None]
        sizes = [tried.bytes / 1e6 for tried, _ in known]
        axes.plot(sizes, [value for _, value in known], color="#c5cbd2", linewidth=1, zorder=1)
        axes.scatter(
            sizes,
            [value for _, value in known],
            c=[_COLOURS[tried.outcome] for tried, _ in known],
            marker=_MARKERS[name],
            label=METRIC_TITLES[name],
            zorder=2,
        )
    for tried in measured:
        label = f"{tried.weights}\n{tried.embedding}"
        axes.annotate(
            label, (tried.bytes / 1e6, 0), xycoords=("data", "axes fraction"), xytext=(0, 4),
            textcoords="offset points", ha="center", fontsize=7.5, color="#7b8794",
        )  # fmt: skip
    if search.budget is not None:
        axes.axvline(search.budget / 1e6, color="#1f2933", linestyle=(0, (4, 3)), linewidth=1, label="budget")
    axes.margins(x=0.1, y=0.3)
    axes.grid(color="#e4e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure
