"""llama.cpp's own way from a JSON Schema to a grammar (common/json-schema-to-grammar.cpp), as Ollama has it.

The wheel's llama.cpp compiles a schema by llguidance, which lets a model write blanks without end; Ollama's does not
have that. Objects, arrays, strings, ``anyOf``, ``enum``, ``const`` and ``$ref`` to ``$defs``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_SHARED = (
    r'space ::= | " " | "\n"{1,2} [ \t]{0,20}',
    r'char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})',
)
_ESCAPED: Mapping[int, str] = {ord('"'): r"\"", ord("\\"): r"\\", ord("\n"): r"\n", ord("\r"): r"\r"}


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of the texts that ``schema`` takes, properties in its order, the optional ones last."""
    rules: list[str] = []
    for name, definition in schema.get("$defs", {}).items():
        rules.append(f"def-{name} ::= {_Rules(rules, f'def-{name}').of(definition)}")
    rules.append(f"root ::= {_Rules(rules, 'root').of(schema)}")
    return "\n".join([*_SHARED, *rules]) + "\n"


class _Rules:
    """Adds the rules that one of them needs, with names that begin as its own does."""

    def __init__(self, rules: list[str], name: str) -> None:
        self._rules = rules
        self._name = name
        self._count = 0

    def of(self, schema: Mapping[str, Any]) -> str:
        match schema:
            case {"anyOf": ways}:
                return " | ".join(self._named(way) for way in ways)
            case {"$ref": reference}:
                return f"def-{reference.removeprefix('#/$defs/')}"
            case {"const": value}:
                return f"{_literal(value)} space"
            case {"enum": values}:
                return f"({' | '.join(map(_literal, values))}) space"
            case {"type": "string"}:
                return rf'"\"" char{{{schema["minLength"]},{schema["maxLength"]}}} "\"" space'
            case {"type": "array"}:
                item = self._named(schema["items"])
                more = f'("," space {item}){{{schema["minItems"] - 1},{schema["maxItems"] - 1}}}'
                return f'"[" space {item} {more} "]" space'
            case {"type": "object", "additionalProperties": False}:
                return self._object(schema)
        raise AssertionError(f"no rule for {schema}")

    def _object(self, schema: Mapping[str, Any]) -> str:
        required = schema.get("required", ())
        pairs = {
            name: self._add(f'{_literal(name)} space ":" space {self._named(value)}')
            for name, value in schema["properties"].items()
        }
        first = ' "," space '.join(pairs[name] for name in pairs if name in required)
        others = [pair for name, pair in pairs.items() if name not in required]
        assert not (first and others), "required properties and optional ones are not needed together"
        return f'"{{" space {first} {self._optional(others)} "}}" space'

    def _optional(self, pairs: Sequence[str]) -> str:
        """Any of ``pairs`` in their order, each at most once."""
        ways, rest = [], ""
        for pair in reversed(pairs):
            ways.insert(0, f"{pair} {rest}")
            rest = f'("," space {self._add(" | ".join(ways))})?'
        return f"({' | '.join(ways)})?" if ways else ""

    def _named(self, schema: Mapping[str, Any]) -> str:
        return self.of(schema) if "$ref" in schema else self._add(self.of(schema))

    def _add(self, body: str) -> str:
        self._count += 1
        name = f"{self._name}-{self._count}"
        self._rules.append(f"{name} ::= {body}")
        return name


def _literal(value: Any) -> str:
    return '"' + json.dumps(value, ensure_ascii=False).translate(_ESCAPED) + '"'
