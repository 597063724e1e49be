"""Go's values and what templates do with them: texts are bytes, as Go counts bytes, and nil is None."""

import json
from collections.abc import Callable
from typing import Any

from deployment.prompts.go_template.nodes import refusal

_NO_VALUE = b"<no value>"  # what a map prints for a key that it lacks


class Struct(dict[str, Any]):
    """Data whose fields are fixed: another one is an error, where a map has no value."""


def field(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or (isinstance(value, Struct) and name not in value):
        raise refusal(f"there is no field {name} in {_kind(value)}")
    return value.get(name)


def elements(value: Any, variables: int) -> list[tuple[Any, Any]]:
    """Index or key, and element, of all that a range goes through."""
    if value is None:
        return []
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, dict) and not isinstance(value, Struct):
        return [(key.encode(), value[key]) for key in sorted(value, key=str.encode)]
    if isinstance(value, int) and not isinstance(value, bool):
        if variables > 1:
            raise refusal("a range over a number has one variable")
        return [(None, number) for number in range(value)]
    raise refusal(f"a range cannot go through {_kind(value)}")


def truth(value: Any) -> bool:
    return True if isinstance(value, Struct) else bool(value)


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", int: "a number", bytes: "a text", list: "a list", dict: "a map", Struct: "a struct"}
    return kinds.get(type(value), "nothing")


def printed(value: Any) -> bytes:
    if value is None:
        return _NO_VALUE
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return str(value).encode()
    if not isinstance(value, bytes):
        raise refusal(f"{_kind(value)} is printed")
    return value


def _print(*values: Any) -> bytes:
    """fmt.Sprint: a space between two operands of which neither is a text."""
    output = b""
    for number, value in enumerate(values):
        apart = number and not isinstance(value, bytes) and not isinstance(values[number - 1], bytes)
        output += (b" " if apart else b"") + (b"<nil>" if value is None else printed(value))
    return output


def _comparable(left: Any, right: Any) -> tuple[Any, Any]:
    if type(left) is not type(right) or not isinstance(left, bool | int | bytes):
        raise refusal(f"{_kind(left)} and {_kind(right)} are compared")
    return left, right


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(left: Any, right: Any) -> bool:
        if isinstance(left, bool):
            raise refusal("truth values have no order")
        return compare(*_comparable(left, right))

    return compared


def _equal(first: Any, *others: Any) -> bool:
    for other in others:
        left, right = _comparable(first, other)
        if left == right:
            return True
    return False


def _length(value: Any) -> int:
    if not isinstance(value, bytes | list | dict) or isinstance(value, Struct):
        raise refusal(f"{_kind(value)} has no length")
    return len(value)


def _index(value: Any, *places: Any) -> Any:
    if value is None:
        raise refusal("nothing is indexed")
    for place in places:
        if not isinstance(value, dict):
            value = value[_place(value, place, most=_length(value) - 1)]
        elif isinstance(value, Struct) or not isinstance(place, bytes):
            raise refusal(f"{_kind(value)} is indexed by {_kind(place)}")
        else:
            value = value.get(place.decode(errors="replace"))
    return value


def _slice(value: Any, *places: Any) -> Any:
    if not isinstance(value, bytes | list):
        raise refusal(f"{_kind(value)} is sliced")
    bounds = [_place(value, place, most=len(value)) for place in places]
    start, stop = [*bounds, *(0, len(value))[len(bounds) :]]
    if start > stop:
        raise refusal(f"a slice goes from {start} to {stop}")
    return value[start:stop]


def _place(value: Any, place: Any, *, most: int) -> int:
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place <= most:
        raise refusal(f"{place!r} is no place in {_kind(value)} of {_length(value)}")
    return place


def _json(value: Any) -> bytes:
    """As Go's json.Marshal writes it: compact, keys in order, nothing that HTML could take for its own."""

    def python_value(item: Any) -> Any:
        if isinstance(item, Struct):
            raise refusal("a struct is written as JSON, whose names only Ollama knows")
        if isinstance(item, dict):
            return {key: python_value(item[key]) for key in sorted(item, key=str.encode)}
        if isinstance(item, list):
            return [python_value(part) for part in item]
        return item.decode(errors="replace") if isinstance(item, bytes) else item

    text = json.dumps(python_value(value), ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}).encode()


FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {  # with the least and the most arguments
    "not": (lambda value: not truth(value), 1, 1),
    "eq": (_equal, 2, None),
    "ne": (lambda left, right: not _equal(left, right), 2, 2),
    "lt": (_ordered(lambda left, right: left < right), 2, 2),
    "le": (_ordered(lambda left, right: left <= right), 2, 2),
    "gt": (_ordered(lambda left, right: left > right), 2, 2),
    "ge": (_ordered(lambda left, right: left >= right), 2, 2),
    "len": (_length, 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, 3),
    "print": (_print, 0, None),
    "json": (_json, 1, 1),
}
