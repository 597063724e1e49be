"""The text that Ollama makes of a conversation with a Modelfile's TEMPLATE, before its llama.cpp adds the BOS.

Follows template/template.go and server/prompt.go of Ollama 0.34: consecutive messages of one role are joined by an
empty line, and so are all system messages for ``.System``. A template that names ``.Messages`` runs once over all of
them; any other runs once an exchange with ``.System``, ``.Prompt`` and ``.Response``, and the last time without what
follows ``.Response``. The text is then tokenized with control tokens recognised wherever they stand, also in what a
user typed. Not followed: the dropping of early messages that do not fit ``num_ctx``, tools, thinking and images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from deployment.prompts.go_template import Struct, execute
from deployment.prompts.go_template.nodes import Action, Branch, Call, Node, Operand, Pipe, Template, refusal
from deployment.prompts.go_template.parser import parse
from deployment.prompts.prompt import Message

_RESPONSE = Operand("dot", fields=("Response",))
_UNSET = {"Think": False, "ThinkLevel": "", "IsThinkSet": False}


def ollama_prompt(source: str, messages: Sequence[Message], *, system: str = "") -> str:
    """The prompt for ``messages`` by the TEMPLATE ``source`` and the SYSTEM of the same Modelfile.

    Raises UsageError for a template that Ollama or :mod:`deployment.prompts.go_template` cannot render.
    """
    if system and messages[0].role != "system":
        messages = [Message("system", system), *messages]
    collated: list[Message] = []
    for message in messages:
        if collated and collated[-1].role == message.role:
            collated[-1] = Message(message.role, f"{collated[-1].content}\n\n{message.content}")
        else:
            collated.append(message)
    template = parse(source)
    names = _names(template)
    if "messages" not in names:
        if "response" not in names:
            template = replace(template, nodes=(*template.nodes, Action(Pipe(((_RESPONSE,),)))))
        return _by_exchanges(template, collated)
    values = {
        "System": "\n\n".join(message.content for message in messages if message.role == "system"),
        "Messages": [_struct(message) for message in collated],
        "Tools": None,
        "Response": "",
        **_UNSET,
    }
    return execute(template, values)


def _struct(message: Message) -> Struct:
    unused = {"Thinking": "", "Images": [], "ToolCalls": [], "ToolName": "", "ToolCallID": ""}
    return Struct(Role=message.role, Content=message.content, **unused)


def _by_exchanges(template: Template, messages: Sequence[Message]) -> str:
    if any(operand == Operand("function", "json") for operand in _operands(template.nodes)):
        raise refusal("Ollama knows json only where the template names .Messages")
    texts: list[str] = []
    values = {"System": "", "Prompt": "", "Response": ""}
    for message in messages:
        told = message.role == "system" and (values["Prompt"] or values["Response"])
        if told or (message.role == "user" and values["Response"]):
            texts.append(execute(template, {**values, **_UNSET}))
            values = dict.fromkeys(values, "")
        values[{"system": "System", "user": "Prompt", "assistant": "Response"}[message.role]] = message.content
    last = Template(_Cut().nodes(template.nodes), {})
    return "".join([*texts, execute(last, {**values, **_UNSET})])


class _Cut:
    """Drops all that follows the first ``.Response``, as Ollama does: node by node, arguments too."""

    def __init__(self) -> None:
        self._passed = False

    def nodes(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        kept = []
        for node in nodes:
            if self._passed:
                break
            if isinstance(node, Action):
                pipe = self._pipe(node.pipe)
                kept += [Action(pipe)] if pipe else []
            elif isinstance(node, Branch):
                body = self.nodes(node.body)
                if self._passed and node.otherwise is not None:
                    raise refusal("Ollama fails on a .Response in an action that has an else")
                kept.append(replace(node, body=body, otherwise=node.otherwise and self.nodes(node.otherwise)))
            else:
                kept.append(node)
        return tuple(kept)

    def _pipe(self, pipe: Pipe) -> Pipe | None:
        commands = []
        for command in pipe.commands:
            kept = [found for operand in command if (found := self._operand(operand))]
            if not kept:
                return None
            commands.append(tuple(kept))
        return replace(pipe, commands=tuple(commands))

    def _operand(self, operand: Operand) -> Operand | None:
        if self._passed:
            return None
        if isinstance(operand.value, Pipe) and not operand.fields:
            pipe = self._pipe(operand.value)
            return replace(operand, value=pipe) if pipe else None
        self._passed = operand.of == "dot" and "Response" in operand.fields
        return operand


def _names(template: Template) -> set[str]:
    """Every field and variable that the template names, in small letters, as Ollama compares them."""
    operands = [item for nodes in (template.nodes, *template.defined.values()) for item in _operands(nodes)]
    return {name.lower() for item in operands for name in item.fields}


def _operands(nodes: tuple[Node, ...]) -> Iterator[Operand]:
    for node in nodes:
        if isinstance(node, Action | Branch | Call) and node.pipe:
            yield from _operands_of(node.pipe)
        if isinstance(node, Branch):
            yield from _operands((*node.body, *(node.otherwise or ())))


def _operands_of(pipe: Pipe) -> Iterator[Operand]:
    for command in pipe.commands:
        for operand in command:
            yield operand
            if isinstance(operand.value, Pipe):
                yield from _operands_of(operand.value)
