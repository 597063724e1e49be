"""What a template is made of once it was read."""

from dataclasses import dataclass

from registry.errors import UsageError


@dataclass(frozen=True)
class Text:
    text: bytes


@dataclass(frozen=True)
class Operand:
    """A value, by where it comes from, and the fields that are taken of it."""

    of: str  # "constant", "dot", "variable", "function" or "pipeline"
    value: object = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipe:
    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False  # by "=", to variables that are there


@dataclass(frozen=True)
class Action:
    pipe: Pipe


@dataclass(frozen=True)
class Branch:
    kind: str  # "if", "with" or "range"
    pipe: Pipe
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...] | None


@dataclass(frozen=True)
class Call:
    name: bytes
    pipe: Pipe | None


@dataclass(frozen=True)
class Jump:
    kind: str  # "break" or "continue"


Node = Text | Action | Branch | Call | Jump


@dataclass(frozen=True)
class Template:
    nodes: tuple[Node, ...]
    defined: dict[bytes, tuple[Node, ...]]


def refusal(what: str) -> UsageError:
    """The error for what is wrong in a template or not known here."""
    return UsageError(f"the Go template cannot be rendered: {what}.")
