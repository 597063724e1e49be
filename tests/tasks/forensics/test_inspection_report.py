"""The report shows what was found, holds everything it needs and fetches nothing."""

import re

import numpy as np
import pytest
from gemma_shaped import OUTLIER
from rich.console import Console

from tasks.forensics import plots
from tasks.forensics.report import write_report
from tasks.forensics.statistics import ModelStatistics, tensor_statistics
from tasks.forensics.tables import comparison_table, nonfinite_table, norm_table, weight_table
from tasks.reports.figures import png

SHORT = "2 post_feedforward_layernorm"
NOTHING = ModelStatistics(model="nothing", format="gguf", architecture="gemma3", parameters=0, tensors=())


@pytest.fixture
def base(folder) -> ModelStatistics:
    return tensor_statistics(folder)


@pytest.fixture
def grown(write_folder, weights) -> ModelStatistics:
    changed = {name: values.copy() for name, values in weights.items()}
    changed[OUTLIER][11] *= 10
    return tensor_statistics(write_folder(changed, "grown"))


def text(table) -> str:
    console = Console(width=200, record=True)
    console.print(table)
    return console.export_text()


def page(tmp_path, *arguments) -> str:
    write_report(tmp_path / "report.html", *arguments)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_is_one_file_with_findings_figures_and_every_tensor(tmp_path, grown, base):
    html = page(tmp_path, grown, {"base": base, "champion": base})
    assert "is grown: gain 16561 in channel 11 where it was 1657" in html
    assert html.count("data:image/png;base64,") == 5
    assert html.count('<td class="part">') == len(base.norms) + 2 * len(base.weights)
    assert not re.search(r'(src|href)="(?!data:)|url\(|<script', html)


def test_the_report_of_a_model_alone_makes_no_claim_about_others(tmp_path, base):
    html = page(tmp_path, base, {})
    assert "inherited (" not in html
    assert "champion" not in html


def test_a_name_from_outside_cannot_become_markup(tmp_path, base):
    html = page(tmp_path, base.model_copy(update={"model": "<script>alert(1)</script>"}), {})
    assert "<script" not in html


def test_a_model_with_no_tensor_still_has_a_report(tmp_path):
    assert "nothing" in page(tmp_path, NOTHING, {"base": NOTHING})


def test_tensors_that_are_not_finite_are_named(tmp_path, write_folder, weights):
    broken = {name: values.copy() for name, values in weights.items()}
    broken[OUTLIER][:] = np.nan
    statistics = tensor_statistics(write_folder(broken, "broken"))
    html = page(tmp_path, statistics, {"base": statistics})
    assert f"NaN or infinity in {OUTLIER}" in html


def test_the_norm_table_begins_with_the_largest_gain(base):
    rows = text(norm_table(base)).splitlines()
    assert SHORT in rows[4]
    assert "1657" in rows[4]
    assert "embed_tokens" not in text(norm_table(base))


def test_the_weight_table_begins_with_the_matrix_that_reaches_furthest(write_folder, weights):
    changed = {name: values.copy() for name, values in weights.items()}
    changed["model.layers.1.mlp.up_proj.weight"][3, 4] = 40.0
    row = text(weight_table(tensor_statistics(write_folder(changed)))).splitlines()[4]
    assert "1 mlp.up_proj" in row
    assert "40" in row


def test_the_comparison_shows_candidate_base_and_champion_with_what_changed_first(grown, base):
    row = text(comparison_table(grown, {"base": base, "champion": grown})).splitlines()[4]
    assert re.sub(r"[│\s]+", " ", row).strip() == f"{SHORT} 16561 1657 9.99 grown 16561 1 inherited"


def test_a_norm_that_the_baseline_lacks_has_dashes(grown):
    row = text(comparison_table(grown, {"base": NOTHING})).splitlines()[4]
    assert re.sub(r"[│\s]+", " ", row).strip() == f"{SHORT} 16561 – – unmatched"


@pytest.mark.parametrize(
    "draw", [plots.gain_heat_map, plots.weight_heat_map, lambda model: plots.gain_histogram({"a": model})]
)
def test_every_figure_is_a_png_even_of_a_model_with_no_tensor(draw, base):
    for model in (base, NOTHING):
        assert png(draw(model)).startswith(b"\x89PNG")


def test_the_heat_map_writes_the_gain_of_every_norm_into_its_cell(base):
    axes = plots.gain_heat_map(base).axes[0]
    cells = {(int(t.get_position()[0]), int(t.get_position()[1])): t.get_text() for t in axes.texts}
    assert len(cells) == len(base.norms) - 1
    assert cells[2, 5] == "1657"
    assert [label.get_text() for label in axes.get_yticklabels()][5] == "post_feedforward_layernorm"


def test_the_scatter_counts_the_channels_that_the_comparison_finds(grown, base):
    axes = plots.gain_scatter(grown, base, ratio_max=1.5).axes[0]
    channels = sum(len(norm.gains.values) for norm in base.norms)
    assert axes.texts[0].get_text() == f"1 of {channels} channels grew by more than ×1.5"


def test_a_terminal_names_every_tensor_with_nan_or_infinity(base, write_folder, weights) -> None:
    assert nonfinite_table(base) is None
    changed = {name: values.copy() for name, values in weights.items()}
    matrix = next(name for name, values in weights.items() if values.ndim > 1)
    changed[OUTLIER][:] = np.nan
    changed[matrix][0, :3] = np.inf
    table = nonfinite_table(tensor_statistics(write_folder(changed, "broken")))
    assert table is not None and "2 of" in str(table.title)
    rows = dict(zip(*(table.columns[index].cells for index in (0, 1)), strict=True))
    assert f"{len(changed[OUTLIER])}" in str(rows[OUTLIER]) and "3" in str(rows[matrix])
