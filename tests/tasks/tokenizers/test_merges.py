"""The comparison by numbers against a plain search through every cut of every piece."""

from pathlib import Path

import pytest
from gguf.constants import TokenType
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from tasks.tokenizers.merges import check_merges

_VOCABULARIES = st.lists(st.text("ab▁\0", min_size=1, max_size=6), min_size=1, max_size=40, unique=True)


def _joins(pieces: list[str]) -> list[list[str]]:
    """By id of the sum, as a sound tokenizer.json lists them."""
    return [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if (cut == 1 or piece[:cut] in pieces) and (cut == len(piece) - 1 or piece[cut:] in pieces)
    ]


def _check(merges: list[object], pieces: list[str]) -> None:
    check_merges(Path("tokenizer.json"), merges, pieces, [int(TokenType.NORMAL)] * len(pieces))


@given(_VOCABULARIES)
def test_exactly_the_possible_joins_pass(pieces: list[str]) -> None:
    _check([*_joins(pieces)], pieces)


@given(_VOCABULARIES, st.data())
def test_a_missing_join_is_named(pieces: list[str], data: st.DataObject) -> None:
    merges = _joins(pieces)
    if merges:
        left, right = merges.pop(data.draw(st.integers(0, len(merges) - 1)))
        with pytest.raises(UsageError) as error:
            _check([*merges], pieces)
        assert f"differ in joining {left!r} and {right!r}:" in str(error.value)


@given(_VOCABULARIES, st.tuples(st.text("ab▁", min_size=1, max_size=3), st.text("ab▁", min_size=1, max_size=3)))
def test_a_merge_that_llama_cpp_would_not_make_is_named(pieces: list[str], further: tuple[str, str]) -> None:
    merges = _joins(pieces)
    if list(further) not in merges:
        with pytest.raises(UsageError) as error:
            _check([*merges, list(further)], pieces)
        assert f"differ in joining {further[0]!r} and {further[1]!r}:" in str(error.value)


def test_a_merge_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="a merge twice"):
        _check([["a", "b"], ["a", "b"]], ["a", "b", "ab"])


def test_older_files_write_a_merge_as_one_text() -> None:
    _check(["a b", "ab c"], ["a", "b", "c", "ab", "abc"])


@pytest.mark.parametrize("merge", [3, [], ["a"], ["a", "b", "c"], ["a", 3], ["", "ab"], "ab", None])
def test_what_is_no_pair_of_texts_is_refused(merge: object) -> None:
    with pytest.raises(UsageError, match="no pairs of texts"):
        _check([merge], ["a", "b", "ab"])
