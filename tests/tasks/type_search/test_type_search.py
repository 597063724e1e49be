"""Which types a search tries on a tiny real model, what it writes, and how it says that nothing passes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from rich.console import Console

from registry.errors import GateBlocked, VerificationFailed
from tasks.evaluation.metrics import METRIC_TITLES, Metrics
from tasks.gates.thresholds import Thresholds
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.type_search.report import search_html, search_table, size_figure
from tasks.type_search.search import Outcome, TypeSearch, search_types, size_types

Pair = tuple[str, str]  # types of the weights and of the embedding
_Q8, _Q5, _Q4 = "q8_0", "q5_0", "q4_0"
_FLOORS = Thresholds(
    json_validity_min=0.9, intent_accuracy_min=0.9, exact_match_min=0.9, entity_f1_min=0.9, oos_recall_min=0.9,
    oos_precision_min=0.9,
)  # fmt: skip


def metrics(exact_match: float | None) -> Metrics:
    """All metrics 1 but this one."""
    figures = {**dict.fromkeys(METRIC_TITLES, 1.0), "exact_match": exact_match}
    return Metrics(rows=10, seconds=1.0, tokens_per_second=1.0, **figures)


def types_in(file: Path) -> Pair:
    """What a reader finds in a matrix and in the embedding."""
    with GgufFile(file) as found:
        matrix, embedding = (found.tensors[name].type for name in ("blk.0.ffn_up.weight", "token_embd.weight"))
    return matrix.name.lower(), embedding.name.lower()


class Asked:
    """Metrics by the types that a file really holds; remembers the order in which files were asked."""

    def __init__(self, exact_match: Callable[[Pair], float | None]) -> None:
        self._exact_match = exact_match
        self.pairs: list[Pair] = []

    def __call__(self, file: Path) -> Metrics:
        self.pairs.append(types_in(file))
        return metrics(self._exact_match(self.pairs[-1]))


def outcomes(search: TypeSearch) -> dict[Pair, Outcome]:
    return {(types.weights.value, types.embedding.value): types.outcome for types in search.types}


def test_every_size_is_that_of_the_file_that_would_be_written(tiny_model_dir: Path, tmp_path: Path) -> None:
    search = size_types(tiny_model_dir)
    assert len(outcomes(search)) == 9 and set(outcomes(search).values()) == {Outcome.NOT_TRIED}
    assert all(small.bytes <= large.bytes for small, large in pairwise(search.types))
    for types in search.types:
        file = tmp_path / "x.gguf"
        export_gguf(tiny_model_dir, file, weights=types.weights, embedding=types.embedding)
        assert file.stat().st_size == types.bytes


def test_the_smallest_file_that_passes_is_kept_and_no_larger_one_is_tried(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = Asked(lambda pair: 0.95 if pair[0] == _Q4 else 0.99)
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", asked)
    assert asked.pairs[0] == (_Q8, _Q8)
    by_size = list(outcomes(search))
    passing = next(pair for pair in by_size if pair[0] != _Q4)
    assert asked.pairs[1:] == by_size[: by_size.index(passing) + 1]
    assert types_in(tmp_path / "out.gguf") == passing
    chosen = search.require()
    assert (chosen.weights, chosen.embedding) == passing and chosen.bytes == (tmp_path / "out.gguf").stat().st_size
    reference = tmp_path / "reference.gguf"
    export_gguf(tiny_model_dir, reference, weights=chosen.weights, embedding=chosen.embedding)
    with GgufFile(reference) as expected, GgufFile(tmp_path / "out.gguf") as found:
        assert {name: tensor.type for name, tensor in found.tensors.items()} == {
            name: tensor.type for name, tensor in expected.tensors.items()
        }
        assert all(tensor.type is GGMLQuantizationType.F32 for name, tensor in found.tensors.items() if "norm" in name)


def test_a_chosen_file_that_is_not_proven_gets_no_name(tiny_model_dir: Path, tmp_path: Path) -> None:
    def refuse(file: Path) -> None:
        assert types_in(file) == (_Q4, _Q4)
        raise VerificationFailed("not the model")

    with pytest.raises(VerificationFailed, match="not the model"):
        search_types(tiny_model_dir, tmp_path / "out.gguf", Asked(lambda pair: 0.99), prove=refuse)
    assert not list(tmp_path.iterdir())


def test_types_that_training_made_exact_win_over_larger_ones(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = Asked(lambda pair: 0.97 if pair[0] == _Q5 else 0.99)
    search_types(tiny_model_dir, tmp_path / "out.gguf", asked)
    assert types_in(tmp_path / "out.gguf") == (_Q4, _Q4)
    assert asked.pairs == [(_Q8, _Q8), (_Q4, _Q4)]


def test_nothing_over_the_budget_is_written_yet_the_largest_is_the_reference(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    budget = size_types(tiny_model_dir).types[4].bytes
    asked = Asked(lambda pair: 0.99 if pair == (_Q8, _Q8) else 0.9)
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", asked, budget=budget)
    assert [types.outcome for types in search.types] == [Outcome.FAILED] * 5 + [Outcome.OVER_BUDGET] * 4
    assert search.types[-1].metrics == metrics(0.99) and search.types[-2].metrics is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(GateBlocked, match=r"fails by exact_match_vs_largest: 0\.9 against 0\.99 of largest, more than"):
        search.require()


def test_a_budget_below_every_file_is_refused_before_anything_is_measured(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = Asked(lambda pair: 1.0)
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", asked, budget=10_000)
    assert not asked.pairs and not list(tmp_path.iterdir())
    with pytest.raises(GateBlocked, match=r"the smallest file .* takes 0\.0\d+ MB, the budget is 0\.01 MB; raise it"):
        search.require()


def test_floors_hold_for_the_largest_file_too(tiny_model_dir: Path, tmp_path: Path) -> None:
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", Asked(lambda pair: 0.8), thresholds=_FLOORS)
    assert set(outcomes(search).values()) == {Outcome.FAILED}
    with pytest.raises(GateBlocked, match=r"fails by exact_match: 0\.8 is below the floor of 0\.9"):
        search.require()


def test_the_largest_file_is_kept_where_it_alone_passes(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = Asked(lambda pair: 1.0 if pair == (_Q8, _Q8) else 0.0)
    search_types(tiny_model_dir, tmp_path / "out.gguf", asked)
    assert types_in(tmp_path / "out.gguf") == (_Q8, _Q8)
    assert asked.pairs.count((_Q8, _Q8)) == 1


def test_table_and_page_show_each_file_with_what_it_failed(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = Asked(lambda pair: 0.95 if pair == (_Q4, _Q4) else 0.99)
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", asked)
    assert TypeSearch.model_validate_json(search.model_dump_json()) == search
    console = Console(width=130, record=True)
    console.print(search_table(search))
    text, page = console.export_text(), search_html(search)
    assert {outcome: text.count(outcome) for outcome in Outcome} == {
        Outcome.CHOSEN: 1, Outcome.FAILED: 1, Outcome.OVER_BUDGET: 0, Outcome.REFERENCE: 1, Outcome.NOT_TRIED: 6,
    }  # fmt: skip
    assert search.types[-1].outcome is Outcome.REFERENCE
    assert text.count("✗ 95.0 %") == 1 and text.count("99.0 %") == 2
    assert "exact_match_vs_largest: 0.95 against 0.99 of largest" in page
    assert "data:image/png;base64," in page and "<script" not in page
    nothing = search_types(tiny_model_dir, tmp_path / "none.gguf", asked, budget=1)
    assert "every file is over the budget" in search_html(nothing)
    none_passes = search_types(tiny_model_dir, tmp_path / "none.gguf", Asked(lambda pair: 0.8), thresholds=_FLOORS)
    assert "no file passes" in search_html(none_passes)
    planned = search_html(size_types(tiny_model_dir))
    assert "sizes only" in planned and "no file passes" not in planned and "<img" not in planned


def test_the_figure_places_each_measured_file_at_its_size(tiny_model_dir: Path, tmp_path: Path) -> None:
    search = search_types(tiny_model_dir, tmp_path / "out.gguf", Asked(lambda pair: 0.9 if pair[1] == _Q4 else 0.99))
    measured = [types for types in search.types if types.metrics]
    exact = size_figure(search).axes[0].collections[0].get_offsets()
    expected = [(types.bytes / 1e6, 100 * types.metrics.exact_match) for types in measured]
    np.testing.assert_allclose(exact, expected)
