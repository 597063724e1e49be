"""The grammar of one command's answers, in GBNF, which llama.cpp keeps to while it answers.

Format: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. It is linear in the command.
"""

import json
from collections.abc import Iterator, Mapping

from deployment.answers.rules import AnswerRules
from deployment.answers.spans import Form, SpanAutomaton
from registry.records import MAX_VALUE, OUT_OF_SCOPE, LabelSet

# A free value begins with no blank, as a blank one is none, and has the escapes of json.dumps alone: with \ud800 it
# would be no text.
_CHARACTERS = (
    r'first ::= [^"\\\x00-\x20\x85\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000] | "\\" ["\\]',
    r'char ::= [^"\\\x00-\x1F] | "\\" (["\\bfnrt] | "u00" [01] [0-9a-f])',
)
_ESCAPED: Mapping[int, str] = {
    ord('"'): r"\"",
    ord("\\"): r"\\",
    **{code: f"\\x{code:02X}" for code in (*range(0x20), 0x7F)},
}


def grounded_grammar(command: str, labels: LabelSet, rules: AnswerRules) -> str:
    """The grammar of the answers that ``labels`` and ``rules`` allow to ``command``.

    Entity types come in the label set's order, each at most once; a grounded type's values are spans of the command.
    Blanks between the parts of the JSON are for the model to choose, one at most.
    """
    strings: dict[str, list[str]] = {}
    names: dict[tuple[Form | None, int], str] = {}
    values = {}
    for name in labels.entities:
        form = rules.types[name].form
        kind = form, 0 if form else rules.types[name].longest
        if kind not in names:
            names[kind] = f"string{len(names)}x"
            strings[names[kind]] = (
                _span_rules(span_automaton(command, form, rules), names[kind])
                if form
                else [f'{names[kind]} ::= "\\"" first char{{0,{kind[1] - 1}}} "\\""']
            )
        values[name] = names[kind]
    offered = {name: string for name, string in values.items() if strings[string]}
    lines = [*_object(labels, typed=bool(offered)), *_types(offered, labels, rules)]
    if rules.free:
        lines += _CHARACTERS
    return "\n".join([*lines, *(line for string in strings.values() for line in string)]) + "\n"


def span_automaton(command: str, form: Form, rules: AnswerRules) -> SpanAutomaton:
    """The values that the types of ``form`` can have in the answer to ``command``.

    They share the length of the longest, for one automaton is much the smallest.
    """
    longest = max(known.longest for known in rules.types.values() if known.form == form)
    return SpanAutomaton(form.of(command), longest=min(longest, MAX_VALUE // 2))


def _object(labels: LabelSet, *, typed: bool) -> Iterator[str]:
    """The whole answer but its entities."""
    intents = " | ".join(_literal(_json(intent)) for intent in labels.intents if intent != OUT_OF_SCOPE)
    opening, middle = _literal("{" + _json("intent") + ":"), _literal(_json("entities") + ":")
    head = f'{opening} ws %s "," ws {middle} ws "{{" %s "}}}}"'
    yield "root ::= audit | out"
    yield "audit ::= " + head % ("intent", "types0?" if typed else "")
    yield "out ::= " + head % (_literal(_json(OUT_OF_SCOPE)), "")
    yield f"intent ::= {intents}"
    yield 'ws ::= " "?'


def _types(offered: Mapping[str, str], labels: LabelSet, rules: AnswerRules) -> Iterator[str]:
    """The types in their order; each rule starts at one of them, or at a later one."""
    for place, (name, value) in enumerate(offered.items()):
        if name in labels.many:
            more = rules.types[name].most - 1
            value = f'"[" {value} ("," ws {value}){{0,{more}}} "]"' if more else f'"[" {value} "]"'
        last = place == len(offered) - 1
        following, later = ("", "") if last else (f' ("," ws types{place + 1})?', f" | types{place + 1}")
        yield f"types{place} ::= {_literal(_json(name) + ':')} ws {value}{following}{later}"


def _span_rules(automaton: SpanAutomaton, name: str) -> list[str]:
    """``name``, a string that is a span, and what it needs; nothing where the text has no span.

    No blank begins or ends it, so a blank goes together with the atom after it.
    """
    rules, states, seen = [], [0], {0}
    for state in states:
        ways = ['"\\""'] if state else []
        for run, to in _steps(automaton.edges, state):
            ways.append(f"{_literal(_inside(run))} {name}{to}")
            if to not in seen:
                seen.add(to)
                states.append(to)
        rules.append(f"{name}{state} ::= {' | '.join(ways)}")
    return [f'{name} ::= "\\"" {name}0', *rules] if len(states) > 1 else []


def _steps(edges: list[dict[str, int]], state: int) -> Iterator[tuple[str, int]]:
    for atom, to in edges[state].items():
        if not atom.isspace():
            yield atom, to
        elif state:
            yield from ((atom + after, then) for after, then in edges[to].items() if not after.isspace())


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _inside(text: str) -> str:
    """``text`` as it stands between the quotes of a JSON string."""
    return _json(text)[1:-1]


def _literal(text: str) -> str:
    """``text`` as a literal of GBNF."""
    return f'"{text.translate(_ESCAPED)}"'
