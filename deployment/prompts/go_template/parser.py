"""Reading a template: texts and tokens, then nodes. Variables and functions must be known here, as in Go."""

import re
from collections.abc import Iterator
from functools import lru_cache

from deployment.prompts.go_template.checking import check_names
from deployment.prompts.go_template.nodes import (
    Action,
    Branch,
    Call,
    Jump,
    Node,
    Operand,
    Pipe,
    Template,
    Text,
    refusal,
)


@lru_cache(maxsize=8)  # a Modelfile's template renders many prompts
def parse(source: str) -> Template:
    """Read a template. Raises UsageError naming what is wrong in it or not known here."""
    defined: dict[bytes, tuple[Node, ...]] = {}
    nodes, _ = _Parser(_items(source.encode()), defined).nodes(())
    for body in (nodes, *defined.values()):
        check_names(body, ["$"])
    return Template(nodes, defined)


Token = tuple[str, bytes]  # kind, text
_SPACE = b" \t\r\n"
_OPENS = re.compile(rb"\{\{(-(?=[ \t\r\n]))?")
_COMMENT = re.compile(rb"[ \t\r\n]?/\*.*?\*/(?:([ \t\r\n]-)?\}\})?", re.DOTALL)
_CLOSES = re.compile(rb"([ \t\r\n]+-)?\}\}")
_TOKEN = re.compile(
    rb"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<raw>`[^`]*`)
    |(?P<number>[+-]?(?:0|[1-9][0-9]*)(?![\w.]))
    |(?P<field>\.[A-Za-z_]\w*)
    |(?P<variable>\$\w*)(?!=)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<mark>:=|[=|(),.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([abfnrtv\\\"])|([0-3][0-7]{2})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)")
_CONTROL = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))
_KEYWORDS = [("word", word) for word in b"if with range else end define template break continue block".split()]
_CONSTANTS = {b"true": True, b"false": False, b"nil": None}


def _items(source: bytes) -> Iterator[bytes | list[Token]]:
    """Texts, trimmed as the actions beside them ask for, and the tokens of actions, spaces among them."""
    position, trim = 0, False
    while opened := _OPENS.search(source, position):
        text = source[position : opened.start()]
        text = text.lstrip(_SPACE) if trim else text
        yield text.rstrip(_SPACE) if opened[1] else text
        position = opened.end()
        comment = _COMMENT.match(source, position) if opened[1] or source.startswith(b"/*", position) else None
        if comment:
            if not comment[0].endswith(b"}}"):
                raise refusal("a comment does not end at the end of its action")
            position, trim = comment.end(), bool(comment[1])
            continue
        tokens: list[Token] = []
        while not (closed := _CLOSES.match(source, position)):
            token = _TOKEN.match(source, position)
            if token is None:
                raise refusal(
                    f"{_shown(source[opened.start() : position + 20])} is not closed or holds what is not known"
                )
            tokens.append((str(token.lastgroup), token[0]))
            position = token.end()
        yield tokens
        position, trim = closed.end(), bool(closed[1])
    yield source[position:].lstrip(_SPACE) if trim else source[position:]


class _Parser:
    def __init__(self, items: Iterator[bytes | list[Token]], defined: dict[bytes, tuple[Node, ...]]) -> None:
        self._items = items
        self._defined = defined

    def nodes(self, closes: tuple[str, ...], *, depth: int = 0, loop: bool = False) -> tuple[tuple[Node, ...], str]:
        """Nodes up to the action that closes them, which is one of ``closes``, and the words of that action."""
        found: list[Node] = []
        for item in self._items:
            if isinstance(item, bytes):
                found.extend([Text(item)] if item else [])
                continue
            action = _Tokens(item)
            word = action.keyword()
            if word in ("end", "else"):
                closing = " ".join([word, *([action.keyword()] if action.left() else [])])
                if closing not in closes:
                    raise refusal(f"{{{{ {closing} }}}} is out of place")
                self._rest = action
                return tuple(found), closing
            if word == "define":
                self._define(action, depth)
            else:
                found.append(self._node(word, action, depth, loop))
        if closes:
            raise refusal("an action has no {{ end }}")
        return tuple(found), ""

    def _node(self, word: str, action: "_Tokens", depth: int, loop: bool) -> Node:
        if word in ("if", "with", "range"):
            return self._branch(word, action, depth + 1, loop or word == "range")
        if word in ("break", "continue"):
            if not loop:
                raise refusal(f"{{{{ {word} }}}} is outside of a range")
            action.finish()
            return Jump(word)
        if word == "template":
            name = action.string()
            return Call(name, action.pipe() if action.left() else None)
        if word:
            raise refusal(f"{{{{ {word} }}}} is not known here")
        return Action(action.pipe())

    def _branch(self, kind: str, action: "_Tokens", depth: int, loop: bool) -> Branch:
        pipe = action.pipe(most_variables=2 if kind == "range" else 1)
        again = f"else {kind}"
        body, closing = self.nodes(("end", "else", *((again,) if kind != "range" else ())), depth=depth, loop=loop)
        otherwise = None
        if closing == again:
            otherwise = (self._branch(kind, self._rest, depth, loop),)
        elif closing == "else":
            self._rest.finish()
            # a break in the else of a range leaves the range around it, which is not followed here
            otherwise, _ = self.nodes(("end",), depth=depth, loop=loop and kind != "range")
            self._rest.finish()
        else:
            self._rest.finish()
        return Branch(kind, pipe, body, otherwise)

    def _define(self, action: "_Tokens", depth: int) -> None:
        name = action.string()
        action.finish()
        if depth:
            raise refusal("a template is defined within another action")
        if name in self._defined:
            raise refusal(f"the template {_shown(name)} is defined twice")
        self._defined[name], _ = self.nodes(("end",), depth=1)
        self._rest.finish()


class _Tokens:
    """The tokens of one action, taken from the left."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens

    def left(self) -> bool:
        self._skip_space()
        return bool(self._tokens)

    def keyword(self) -> str:
        """The word that says what the action is, empty for a pipeline."""
        self._skip_space()
        return self._take()[1].decode() if self._peek() in _KEYWORDS else ""

    def string(self) -> bytes:
        self._skip_space()
        kind, text = self._take()
        if kind not in ("string", "raw"):
            raise refusal(f"{_shown(text)} stands where a name in quotes belongs")
        return _string(text)

    def finish(self) -> None:
        if self.left():
            raise refusal(f"{_shown(self._peek()[1])} is too much in its action")

    def pipe(self, *, most_variables: int = 1) -> Pipe:
        pipe = self._pipe(most_variables)
        self.finish()
        return pipe

    def _pipe(self, most_variables: int) -> Pipe:
        variables, assigns = self._variables(most_variables)
        commands = [self._command()]
        while self._peek() == ("mark", b"|"):
            self._take()
            commands.append(self._command())
        for command in commands[1:]:
            if command[0].of in ("constant", "dot"):
                raise refusal("a constant or dot stands after | where a function belongs")
        return Pipe(tuple(commands), variables, assigns)

    def _variables(self, most: int) -> tuple[tuple[str, ...], bool]:
        words = [token for token in self._tokens if token[0] != "space"]
        for count in range(1, most + 1):
            names, marks = words[: 2 * count : 2], words[1 : 2 * count : 2]
            if (
                [kind for kind, _ in names] == ["variable"] * count
                and len(marks) == count
                and marks[-1] in (("mark", b":="), ("mark", b"="))
                and marks[:-1] == [("mark", b",")] * (count - 1)
            ):
                for _ in range(2 * count):
                    self._skip_space()
                    self._take()
                return tuple(text.decode() for _, text in names), marks[-1][1] == b"="
        return (), False

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while self.left() and self._peek() not in (("mark", b"|"), ("mark", b")")):
            operands.append(self._operand())
            if self._tokens and self._peek()[0] != "space" and self._peek() not in (("mark", b"|"), ("mark", b")")):
                raise refusal(f"{_shown(self._peek()[1])} follows a value without a space")
        if not operands:
            raise refusal("a value is missing")
        return tuple(operands)

    def _operand(self) -> Operand:
        kind, text = self._take()
        if kind == "field":
            return Operand("dot", fields=(text[1:].decode(), *self._fields()))
        if kind == "variable":
            return Operand("variable", text.decode(), self._fields())
        if kind == "mark" and text == b"(":
            pipe = self._pipe(0)
            if self._take() != ("mark", b")"):
                raise refusal("a parenthesis is not closed")
            return Operand("pipeline", pipe, self._fields())
        if kind == "mark" and text == b".":
            return Operand("dot")
        if kind == "word" and text not in _CONSTANTS:
            return Operand("function", text.decode())
        if kind == "word":
            return Operand("constant", _CONSTANTS[text])
        if kind == "number":
            return Operand("constant", int(text))
        if kind in ("string", "raw"):
            return Operand("constant", _string(text))
        raise refusal(f"{_shown(text)} is out of place")

    def _fields(self) -> tuple[str, ...]:
        names = []
        while self._peek()[0] == "field":
            names.append(self._take()[1][1:].decode())
        return tuple(names)

    def _peek(self) -> Token:
        return self._tokens[0] if self._tokens else ("end", b"}}")

    def _take(self) -> Token:
        token = self._peek()
        self._tokens = self._tokens[1:]
        return token

    def _skip_space(self) -> None:
        while self._peek()[0] == "space":
            self._take()


def _string(text: bytes) -> bytes:
    """The value of a string constant."""
    if text.startswith(b"`"):
        return text[1:-1]

    def escaped(found: re.Match[bytes]) -> bytes:
        control, octal, byte, short, long = found.groups()
        if control:
            return bytes([_CONTROL[control[0]]])
        if octal or byte:
            return bytes([int(octal, 8) if octal else int(byte, 16)])
        code = int(short or long or b"110000", 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise refusal(f"{_shown(text)} holds an escape that Go does not know")
        return chr(code).encode()

    return _ESCAPE.sub(escaped, text[1:-1])


def _shown(text: bytes) -> str:
    return repr(text[:60].decode(errors="replace"))
