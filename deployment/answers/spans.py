"""The spans of a command: whatever an entity's value may be when it must stand in the command.

A command is cut into atoms: runs of letters, runs of digits, runs of blanks, and every other character alone. A span is
a run of atoms that neither begins nor ends with a blank, so ``WM20`` holds ``WM``, ``20`` and ``WM20``, but not ``W``.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import accumulate, groupby

_ATOM = re.compile(r"[^\W\d_]+|\d+|\s+|[^\w\s]|_")


class Form(StrEnum):
    """How values stand in a command: as they are, or as the command reads once it is written alike."""

    EXACT = "exact"
    PLAIN = "plain"  # Unicode's composed form, one blank between words
    LOWER = "lower"  # plain, in small letters
    UPPER = "upper"  # plain, in capitals

    def of(self, command: str) -> str:
        """``command`` as values of this form copy it."""
        return _WRITTEN[self](command)


def _plain(command: str) -> str:
    return " ".join(unicodedata.normalize("NFC", command).split())


_WRITTEN: dict[Form, Callable[[str], str]] = {
    Form.EXACT: str,
    Form.PLAIN: _plain,
    Form.LOWER: lambda command: _plain(command).lower(),
    Form.UPPER: lambda command: _plain(command).upper(),
}


def atoms(text: str) -> list[str]:
    """The atoms of ``text``, which are ``text`` when joined."""
    return _ATOM.findall(text)


def span_of(value: str, text: str) -> tuple[int, int] | None:
    """Where ``value`` stands as a span of ``text`` for the first time, as start and end; None where it does not."""
    if not value or value != value.strip():
        return None
    borders = {0}
    place = 0
    for atom in atoms(text):
        place += len(atom)
        borders.add(place)
    start = text.find(value)
    while start >= 0 and not {start, start + len(value)} <= borders:
        start = text.find(value, start + 1)
    return (start, start + len(value)) if start >= 0 else None


def spans(text: str, *, most_words: int, longest: int) -> Iterator[str]:
    """The spans of at most ``most_words`` runs between blanks and ``longest`` characters, each once, in the order of
    the text. Of a text without blanks there can be as many as the square of its length."""
    parts = atoms(text)
    found: set[str] = set()
    for start, first in enumerate(parts):
        if first.isspace():
            continue
        words, span = 1, ""
        for atom in parts[start:]:
            span += atom
            words += atom.isspace()
            if words > most_words or len(span) > longest:
                break
            if not atom.isspace() and span not in found:
                found.add(span)
                yield span


class SpanAutomaton:
    """The smallest automaton, about, of the spans of a text: ``edges[state]`` maps an atom to the next state.

    Every path from state 0 is a run of atoms of the text, of at most ``2 * longest`` characters; each run of up to
    ``longest`` characters is one. It is a suffix automaton (Blumer et al. 1985) over blocks that overlap by half, so
    its size and the time to build it are linear in the text. No path goes over an atom of more than ``longest``.
    """

    def __init__(self, text: str, *, longest: int) -> None:
        self.edges: list[dict[str, int]] = [{}]
        self._links = [-1]
        self._lengths = [0]
        for short, parts in groupby(atoms(text), key=lambda atom: len(atom) <= longest):
            for block in _blocks(list(parts), longest) if short else ():
                last = 0
                for atom in block:
                    last = self._extend(last, atom)

    def accepts(self, parts: Sequence[str]) -> bool:
        """Whether a path is these atoms."""
        state: int | None = 0
        for atom in parts:
            state = self.edges[state].get(atom)
            if state is None:
                return False
        return True

    def _extend(self, last: int, atom: str) -> int:
        known = self.edges[last].get(atom)
        if known is not None:
            return known if self._lengths[known] == self._lengths[last] + 1 else self._split(last, atom, known)
        state = self._new(self._lengths[last] + 1, {}, 0)
        at = last
        while at >= 0 and atom not in self.edges[at]:
            self.edges[at][atom] = state
            at = self._links[at]
        if at >= 0:
            shorter = self.edges[at][atom]
            exact = self._lengths[shorter] == self._lengths[at] + 1
            self._links[state] = shorter if exact else self._split(at, atom, shorter)
        return state

    def _split(self, at: int, atom: str, state: int) -> int:
        """A state for the shorter of the runs that end in ``state``."""
        copy = self._new(self._lengths[at] + 1, dict(self.edges[state]), self._links[state])
        self._links[state] = copy
        while at >= 0 and self.edges[at].get(atom) == state:
            self.edges[at][atom] = copy
            at = self._links[at]
        return copy

    def _new(self, length: int, edges: dict[str, int], link: int) -> int:
        self.edges.append(edges)
        self._lengths.append(length)
        self._links.append(link)
        return len(self.edges) - 1


def _blocks(parts: Sequence[str], longest: int) -> Iterator[list[str]]:
    """Runs of at most ``2 * longest`` characters such that each run of up to ``longest`` lies in one of them.

    No part is longer than ``longest``.
    """
    ends = list(accumulate(map(len, parts), initial=0))
    start = 0
    while start < len(parts):
        end = bisect_right(ends, ends[start] + 2 * longest) - 1
        yield list(parts[start:end])
        if end == len(parts):
            return
        start = bisect_right(ends, ends[start] + longest) - 1
