"""The part of llama.cpp's grammar format that deployment.answers.grammar writes, matched in plain Python.

Literals, character classes, names, groups, ``|``, ``?`` and ``{m,n}``; a rule that calls itself is not for it.
"""

import re
from collections.abc import Callable
from functools import cache, reduce

Match = Callable[[str, int], frozenset[int]]  # a text and where a part begins -> where it can end

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^]\\]|\\.)*]|\{\d+,\d+}|[\w-]+|[()|?]')


class Grammar:
    """Which texts a grammar accepts."""

    def __init__(self, text: str) -> None:
        self._bodies = dict(line.split(" ::= ", 1) for line in text.strip("\n").split("\n"))
        self._rules: dict[str, Match] = {}

    def accepts(self, text: str) -> bool:
        return len(text) in self._rule("root")(text, 0)

    def _rule(self, name: str) -> Match:
        if name not in self._rules:  # only the rules that a text comes to are read
            self._rules[name] = cache(_Parser(self._bodies[name], self._named).choice())
        return self._rules[name]

    def _named(self, name: str) -> Match:
        return lambda text, at: self._rule(name)(text, at)


class _Parser:
    def __init__(self, body: str, named: Callable[[str], Match]) -> None:
        assert not _TOKEN.sub("", body).strip(" "), body
        self._tokens = _TOKEN.findall(body)
        self._named = named

    def choice(self) -> Match:
        ways = [self._sequence()]
        while self._next() == "|":
            self._tokens.pop(0)
            ways.append(self._sequence())
        return lambda text, at: frozenset().union(*(way(text, at) for way in ways))

    def _sequence(self) -> Match:
        parts: list[Match] = []
        while self._next() not in ("|", ")", ""):
            parts.append(self._repeated(self._part()))
        return lambda text, at: reduce(lambda places, part: _after(part, text, places), parts, frozenset({at}))

    def _part(self) -> Match:
        token = self._tokens.pop(0)
        if token == "(":
            inner = self.choice()
            assert self._tokens.pop(0) == ")"
            return inner
        if token[0] not in '"[':
            return self._named(token)
        pattern = re.compile(_pattern(token))
        return lambda text, at: frozenset({found.end()} if (found := pattern.match(text, at)) else ())

    def _repeated(self, part: Match) -> Match:
        token = self._next()
        if token != "?" and not token.startswith("{"):
            return part
        self._tokens.pop(0)
        fewest, most = (0, 1) if token == "?" else map(int, token.strip("{}").split(","))

        def ends(text: str, at: int) -> frozenset[int]:
            places, found = frozenset({at}), frozenset[int]()
            for count in range(most + 1):
                found |= places if count >= fewest else frozenset()
                places = _after(part, text, places)
            return found

        return ends

    def _next(self) -> str:
        return self._tokens[0] if self._tokens else ""


def _after(part: Match, text: str, places: frozenset[int]) -> frozenset[int]:
    return frozenset().union(*(part(text, place) for place in places))


def _pattern(token: str) -> str:
    """A literal or a class as a regular expression."""
    if token[0] == "[":
        return token  # its escapes are Python's
    plain = re.sub(r"\\x([0-9A-F]{2})|\\(.)", lambda m: chr(int(m[1], 16)) if m[1] else m[2], token[1:-1])
    return re.escape(plain)
