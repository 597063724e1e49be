import random
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wild_commands import HOSTILE, commands

from deployment.answers.spans import Form, SpanAutomaton, atoms, span_of, spans

_ALL = 10_000  # more words and characters than any of these texts has


def brute_force(text: str, longest: int) -> set[str]:
    """Every run of atoms of up to ``longest`` characters that neither begins nor ends with a blank."""
    parts = atoms(text)
    runs = ("".join(parts[start:end]) for start in range(len(parts)) for end in range(start + 1, len(parts) + 1))
    return {run for run in runs if run == run.strip() and len(run) <= longest}


def language(automaton: SpanAutomaton) -> Iterator[str]:
    """The text of every path that neither begins nor ends with a blank."""
    paths = [(0, "")]
    for state, text in paths:
        if text and text == text.strip():
            yield text
        paths += [(to, text + atom) for atom, to in automaton.edges[state].items()]


@given(commands())
@pytest.mark.parametrize("form", Form)
def test_atoms_join_to_the_text(form: Form, command: str) -> None:
    text = form.of(command)
    assert "".join(atoms(text)) == text
    assert all(atoms(text))


@given(commands())
def test_spans_are_the_runs_of_atoms_without_a_blank_at_their_ends(text: str) -> None:
    found = list(spans(text, most_words=_ALL, longest=_ALL))
    assert set(found) == brute_force(text, _ALL)
    assert len(found) == len(set(found))
    for span in found:
        place = span_of(span, text)
        assert place is not None
        assert text[slice(*place)] == span


@given(commands(), st.integers(1, 4), st.integers(1, 30))
def test_spans_keep_to_their_words_and_characters(text: str, most_words: int, longest: int) -> None:
    found = set(spans(text, most_words=most_words, longest=longest))
    assert found == {span for span in brute_force(text, longest) if len(span.split()) <= most_words}


@given(commands(longest=24), st.data())
def test_what_is_no_span_is_found_nowhere(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    part = text[start : data.draw(st.integers(start, len(text)))]
    assert (span_of(part, text) is not None) == (part in brute_force(text, _ALL))


def test_a_part_of_a_word_is_no_span() -> None:
    text = "washing machine WM20 has W at 3.5 bar"
    for value in ("WM20", "WM", "20", "3.5 bar", "3", "machine WM"):
        assert span_of(value, text) is not None, value
    for value in ("M20", "WM2", "0", "ashing", "3.5 ba", "", " ", "WM20 ", " has", "pump"):
        assert span_of(value, text) is None, value
    assert span_of("W", "WM20 and WM") is None


def test_the_first_place_that_is_a_span_is_found() -> None:
    assert span_of("20", "A120 B20 20") == (6, 8)
    assert span_of("W", text := "WM20 W") == (text.index(" W") + 1, len(text))


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (Form.EXACT, " Cafe\u0301  No. 3\n"),
        (Form.PLAIN, "Café No. 3"),
        (Form.LOWER, "café no. 3"),
        (Form.UPPER, "CAFÉ NO. 3"),
    ],
)
def test_a_form_writes_a_command_as_its_values_are_written(form: Form, written: str) -> None:
    assert form.of(" Cafe\u0301  No. 3\n") == written


@given(commands())
def test_a_plain_command_is_composed_and_has_single_blanks(command: str) -> None:
    text = Form.PLAIN.of(command)
    assert unicodedata.is_normalized("NFC", text)
    assert text.split(" ") == text.split() or not text


@given(commands(longest=32), st.integers(1, 12))
@example("aaaaaaaaa b", 4)
@example("a1a1a1a1a1a1a1a1", 3)
@example("a         b", 4)
def test_an_automaton_accepts_every_short_span_and_nothing_but_spans(text: str, longest: int) -> None:
    accepted = list(language(SpanAutomaton(text, longest=longest)))
    assert len(accepted) == len(set(accepted))
    assert brute_force(text, longest) <= set(accepted) <= brute_force(text, 2 * longest)


def test_an_automaton_has_no_part_of_an_endless_word() -> None:
    assert set(language(SpanAutomaton(f"pump {'x' * 500} leaks oil", longest=100))) == {
        *("pump", "leaks", "oil", "leaks oil"),
    }


@pytest.mark.parametrize("longest", [1, 7, 30, 100])
@pytest.mark.parametrize(
    "text",
    [
        "".join(random.Random(1).choices("abc12 -", k=2000)),
        " ".join(random.Random(2).choices(["pump", "WM20", "leaks", "oil", "No. 3"], k=400)),
        *(command for command in HOSTILE if len(command) > 1000),
    ],
    ids=lambda text: text[:12] if isinstance(text, str) else None,
)
def test_the_size_of_an_automaton_is_linear_in_the_text(text: str, longest: int) -> None:
    automaton = SpanAutomaton(text, longest=longest)
    assert sum(map(len, automaton.edges)) <= 6 * len(text)
    assert len(automaton.edges) <= 4 * len(text) + 1
