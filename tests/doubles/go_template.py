"""The part of Go's text/template that a Modelfile uses: fields, if/else/end, and trim markers."""

import re

_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)


def render(template: str, **fields: str) -> str:
    """Execute ``template`` as Ollama does; a field that is not given is empty."""
    output: list[str] = []
    shown = [True]
    position, trim_next = 0, False
    for action in _ACTION.finditer(template):
        text = template[position : action.start()]
        text = text.lstrip() if trim_next else text
        output.append((text.rstrip() if action[1] else text) if all(shown) else "")
        position, trim_next = action.end(), bool(action[3])
        match action[2].split():
            case ["if", name]:
                shown.append(bool(_field(name, fields)))
            case ["else"]:
                shown[-1] = not shown[-1]
            case ["end"]:
                shown.pop()
            case [name]:
                output.append(_field(name, fields) if all(shown) else "")
            case words:
                raise ValueError(f"this renderer does not know {words}")
    if len(shown) != 1:
        raise ValueError("an if has no end")
    tail = template[position:]
    return "".join(output) + (tail.lstrip() if trim_next else tail)


def _field(name: str, fields: dict[str, str]) -> str:
    if not name.startswith("."):
        raise ValueError(f"{name} is not a field")
    return fields.get(name.removeprefix("."), "")
