"""The Modelfile: what Ollama must know about a package, as text that ``ollama create`` reads and as values.

Format: https://docs.ollama.com/modelfile.
"""

from dataclasses import dataclass
from pathlib import Path

from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.prompt import Message, Prompt, ollama_template, prompt_of
from deployment.runtimes.decoding import GREEDY, AnswerLimits
from registry.errors import UsageError

FILE_NAME = "Modelfile"
_QUOTE = '"""'


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """The instructions of a Modelfile; a parameter that is given several times is a tuple.

    ``system`` is what earlier packages had for an instruction, which stands in the template since.
    """

    gguf: str
    template: str
    parameters: dict[str, int | float | str | tuple[str, ...]]
    licence: str
    system: str = ""

    @classmethod
    def of(cls, gguf: str, prompt: Prompt, limits: AnswerLimits, licence: str) -> "Modelfile":
        """The Modelfile of a GGUF file beside it, for answers as they were evaluated: greedy, unpenalised."""
        return cls(
            gguf=gguf,
            template=ollama_template(prompt),
            parameters={
                **GREEDY,
                "stop": (prompt.end,),
                "num_ctx": limits.num_ctx,
                "num_predict": limits.num_predict,
            },
            licence=licence.strip(),
        )

    @property
    def limits(self) -> AnswerLimits:
        """The bounds among the parameters. Raises UsageError where one is missing."""
        found = {name: self.parameters.get(name) for name in ("num_ctx", "num_predict")}
        whole = {name: value for name, value in found.items() if isinstance(value, int)}
        if missing := found.keys() - whole.keys():
            raise UsageError(f"The Modelfile of {self.gguf} sets no {min(missing)}; build the package again.")
        return AnswerLimits(**whole)

    @property
    def prompt(self) -> Prompt:
        """The prompt that the model was trained and evaluated with. Raises UsageError for turns of another making."""
        prompt = prompt_of(ollama_prompt(self.template, [Message("user", "")], system=self.system))
        if prompt is None:
            raise UsageError(f"The TEMPLATE of {self.gguf} has no turns of a known format; build the package again.")
        return prompt

    def render(self) -> str:
        """The text of the Modelfile. Raises UsageError for a text that its quotes cannot hold."""
        lines = [f"FROM ./{self.gguf}", f"TEMPLATE {_quoted('TEMPLATE', self.template)}"]
        for name, value in self.parameters.items():
            for item in value if isinstance(value, tuple) else (value,):
                lines.append(f"PARAMETER {name} " + (f'"{item}"' if isinstance(item, str) else f"{item}"))
        lines.append(f"LICENSE {_quoted('LICENSE', self.licence)}")
        return "\n".join(lines) + "\n"


def _quoted(instruction: str, text: str) -> str:
    if _QUOTE in text:
        raise UsageError(f'The {instruction} of a Modelfile cannot hold """; reword it.')
    return f"{_QUOTE}{text}{_QUOTE}"


def read_modelfile(path: Path) -> Modelfile:
    """Read a Modelfile that :meth:`Modelfile.render` wrote. Raises UsageError for any other text."""
    try:
        return parse_modelfile(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a Modelfile of a package: {error}.") from error


def parse_modelfile(text: str) -> Modelfile:
    """The values in the text of a Modelfile. Raises ValueError naming what is wrong."""
    values: dict[str, str] = {}
    parameters: dict[str, int | float | str | tuple[str, ...]] = {}
    rest = text
    while rest:
        instruction, _, rest = rest.partition(" ")
        if rest.startswith(_QUOTE):
            value, closed, rest = rest.removeprefix(_QUOTE).partition(f"{_QUOTE}\n")
            if not closed:
                raise ValueError(f"{instruction} has no closing quotes")
        else:
            value, _, rest = rest.partition("\n")
        if instruction == "PARAMETER":
            name, _, word = value.partition(" ")
            parameters[name] = _parameter(word, parameters.get(name, ()))
        elif instruction in ("FROM", "TEMPLATE", "SYSTEM", "LICENSE"):
            values[instruction] = value
        else:
            raise ValueError(f"unknown instruction {instruction[:20]!r}")
    if missing := {"FROM", "TEMPLATE"} - values.keys():
        raise ValueError(f"no {' and no '.join(sorted(missing))}")
    return Modelfile(
        gguf=values["FROM"].removeprefix("./"),
        template=values["TEMPLATE"],
        system=values.get("SYSTEM", ""),
        parameters=parameters,
        licence=values.get("LICENSE", ""),
    )


def _parameter(word: str, before: object) -> int | float | str | tuple[str, ...]:
    if word.startswith('"'):
        return (*(before if isinstance(before, tuple) else ()), word.strip('"'))
    return float(word) if "." in word or "e" in word else int(word)
