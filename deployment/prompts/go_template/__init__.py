"""Go's text/template, as far as chat templates use it: what Ollama makes of a Modelfile's TEMPLATE, without Ollama.

Known are text, comments and trim markers; constants (strings, whole numbers, true, false, nil), dot, fields, variables
and parentheses; pipelines; ``if``, ``with``, ``range`` (over lists, maps and numbers), ``else if``, ``else with``,
``break``, ``continue``, ``define`` and ``template``; and, or, not, eq, ne, lt, le, gt, ge, len, index, slice and print
of numbers, texts and truth values, and Ollama's json. Texts are bytes, as Go counts bytes. All else, such as ``block``,
``printf``, methods, fractions or the printing of a list, raises UsageError: nothing is rendered by half.
The language: https://pkg.go.dev/text/template.
"""

from collections.abc import Mapping
from typing import Any

from deployment.prompts.go_template.functions import FUNCTIONS, Struct, elements, field, printed, truth
from deployment.prompts.go_template.nodes import Action, Branch, Call, Node, Operand, Pipe, Template, Text, refusal
from deployment.prompts.go_template.parser import parse

_DEEPEST_CALL = 100


def render(source: str, data: Mapping[str, Any]) -> str:
    """Execute the template ``source`` on a map of texts, truth values, lists, maps and :class:`Struct`.

    Raises UsageError for a template that is wrong, that Go would stop at, or that uses what is not known here.
    """
    return execute(parse(source), data)


def execute(template: Template, data: Mapping[str, Any]) -> str:
    """The same for a template that was read before."""
    root = _go_value(data)
    output = _State(template.defined, root).run(template.nodes, root)
    try:
        return output.decode()
    except UnicodeDecodeError as error:
        raise refusal("it cuts a character in two") from error


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _State:
    """One template in execution, with its variables."""

    def __init__(self, defined: Mapping[bytes, tuple[Node, ...]], root: Any, depth: int = 0) -> None:
        self._defined = defined
        self._variables: list[tuple[str, Any]] = [("$", root)]
        self._depth = depth
        self._output = bytearray()

    def run(self, nodes: tuple[Node, ...], dot: Any) -> bytes:
        self._walk(nodes, dot)
        return bytes(self._output)

    def _walk(self, nodes: tuple[Node, ...], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self._output += node.text
            elif isinstance(node, Action):
                value = self._pipe(node.pipe, dot)
                self._output += b"" if node.pipe.variables else printed(value)
            elif isinstance(node, Branch):
                mark = len(self._variables)
                self._branch(node, dot)
                del self._variables[mark:]
            elif isinstance(node, Call):
                self._call(node, dot)
            else:
                raise _Break if node.kind == "break" else _Continue

    def _branch(self, node: Branch, dot: Any) -> None:
        value = self._pipe(node.pipe, dot)
        if node.kind == "range":
            if not self._range(node, value):
                self._walk(node.otherwise or (), dot)
        elif truth(value):
            self._walk(node.body, value if node.kind == "with" else dot)
        else:
            self._walk(node.otherwise or (), dot)

    def _range(self, node: Branch, value: Any) -> bool:
        """Walk the body for each element; False where there is none."""
        names = node.pipe.variables
        mark = len(self._variables)
        pairs = elements(value, len(names))
        for index, element in pairs:
            values = (index, element)[-len(names) :] if names else ()
            for place, (name, item) in enumerate(zip(names, values, strict=True)):
                if node.pipe.assigns:
                    self._assign(name, item)
                else:
                    self._variables[mark - len(names) + place] = (name, item)
            try:
                self._walk(node.body, element)
            except _Continue:
                continue
            except _Break:
                break
            finally:
                del self._variables[mark:]
        return bool(pairs)

    def _call(self, node: Call, dot: Any) -> None:
        if node.name not in self._defined:
            raise refusal(f"no template is called {node.name.decode(errors='replace')!r}")
        if self._depth == _DEEPEST_CALL:
            raise refusal(f"templates call each other more than {_DEEPEST_CALL} deep")
        value = self._pipe(node.pipe, dot) if node.pipe else None
        state = _State(self._defined, value, self._depth + 1)
        self._output += state.run(self._defined[node.name], value)

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for number, command in enumerate(pipe.commands):
            value = self._command(command, dot, (value,) if number else ())
        for name in pipe.variables:
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables.append((name, value))
        return value

    def _assign(self, name: str, value: Any) -> None:
        for place in reversed(range(len(self._variables))):
            if self._variables[place][0] == name:
                self._variables[place] = (name, value)
                return
        raise refusal(f"the variable {name} is not declared")

    def _command(self, command: tuple[Operand, ...], dot: Any, piped: tuple[Any, ...]) -> Any:
        first, *arguments = command
        if first.of != "function":
            if arguments or piped:
                raise refusal("an argument is given to what is no function")
            if first == _NIL:
                raise refusal("nil is no command")
            return self._operand(first, dot)
        name = str(first.value)
        if name in ("and", "or"):
            return self._and_or(name, arguments, dot, piped)
        function, least, most = FUNCTIONS[name]
        values = [*(self._operand(argument, dot) for argument in arguments), *piped]
        if len(values) < least or (most is not None and len(values) > most):
            raise refusal(f"{name} has {len(values)} arguments")
        return function(*values)

    def _and_or(self, name: str, arguments: list[Operand], dot: Any, piped: tuple[Any, ...]) -> Any:
        """The first value that decides, or the last; what follows it is not evaluated."""
        if not arguments and not piped:
            raise refusal(f"{name} has 0 arguments")
        value: Any = None
        for argument in arguments:
            value = self._operand(argument, dot)
            if truth(value) == (name == "or"):
                return value
        return piped[0] if piped else value

    def _operand(self, operand: Operand, dot: Any) -> Any:
        if operand.of == "function":
            return self._command((operand,), dot, ())
        if operand.of == "constant":
            return operand.value
        if operand.of == "variable":
            value = self._variable(str(operand.value))
        elif isinstance(operand.value, Pipe):
            value = self._pipe(operand.value, dot)
        else:
            value = dot
        for name in operand.fields:
            value = field(value, name)
        return value

    def _variable(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        raise refusal(f"the variable {name} is not declared")


_NIL = Operand("constant", None)


def _go_value(value: Any) -> Any:
    """Python's data with texts as bytes."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        content = {key: _go_value(item) for key, item in value.items()}
        return Struct(content) if isinstance(value, Struct) else content
    if isinstance(value, list | tuple):
        return [_go_value(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    raise refusal(f"the data holds a {type(value).__name__}")
