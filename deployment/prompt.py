"""The prompt: a turn format around one audit command.

Everything that asks the model something takes its text from here: training, evaluation, the chat template in tokenizer
and GGUF, the Modelfile and the gateway.
"""

from dataclasses import dataclass
from typing import Protocol

from deployment.turns import Turns
from registry.errors import UsageError


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that a prompt needs."""

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a command is put to the model; ``instruction`` comes before it, in the system's turn or in the user's."""

    instruction: str = ""
    turns: Turns = Turns.GEMMA

    @property
    def prefix(self) -> str:
        """The text before the command; the tokenizer or runtime adds a BOS where the model has one."""
        format_, instruction = self.turns.form, self.instruction.strip()
        user = format_.open("user")
        if not instruction:
            return user
        if format_.system_turn:
            return format_.open("system") + instruction + format_.close + user
        return f"{user}{instruction}\n\n"

    @property
    def suffix(self) -> str:
        """The text after the command, up to where the answer begins."""
        format_ = self.turns.form
        return format_.close + format_.open(format_.assistant)

    @property
    def end(self) -> str:
        """The control token that ends an answer."""
        return self.turns.form.end

    def render(self, command: str) -> str:
        """The whole prompt without BOS."""
        return self.prefix + command.strip() + self.suffix


def require_turns(tokenizer: Tokenizer, prompt: Prompt) -> None:
    """Raise UsageError where the tokenizer lacks a control token of the prompt's turns."""
    for token in prompt.turns.form.control:
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise UsageError(
                f"the tokenizer has no token {token}, with which the turn format {prompt.turns} is made; set turns in "
                f"the profile to the model's own of {', '.join(Turns)}."
            )


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, command: str) -> list[int]:
    """Token ids of the prompt, after the BOS that the tokenizer itself puts first. A typed control token stays text."""
    return [
        *tokenizer.encode("", add_special_tokens=True),
        *tokenizer.encode(prompt.prefix, add_special_tokens=False),
        *tokenizer.encode(command.strip(), add_special_tokens=False, split_special_tokens=True),
        *tokenizer.encode(prompt.suffix, add_special_tokens=False),
    ]


def encode_answer(tokenizer: Tokenizer, prompt: Prompt, answer: str) -> list[int]:
    """Token ids of the answer and the end of the turn."""
    return [
        *tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=True),
        tokenizer.convert_tokens_to_ids(prompt.end),
    ]


# Jinja, as Hugging Face and llama.cpp render it; an own instruction becomes the default system message.
_CHAT_TEMPLATE = """\
BOS\
{%- if messages[0]['role'] == 'system' -%}\
{%- set system = messages[0]['content'] | trim -%}{%- set turns = messages[1:] -%}\
{%- else -%}\
{%- set system = INSTRUCTION -%}{%- set turns = messages -%}\
{%- endif -%}\
SYSTEM_TURN\
{%- for message in turns -%}\
{%- set role = ASSISTANT if message['role'] == 'assistant' else message['role'] -%}\
{{ OPENS + role + NAMES }}\
SYSTEM_TEXT\
{{ message['content'] | trim }}{{ CLOSE }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ ANSWER }}{%- endif -%}"""
_SYSTEM_TURN = "{%- if system -%}{{ SYSTEM + system + CLOSE }}{%- endif -%}"
_SYSTEM_TEXT = "{%- if loop.first and system -%}{{ system + '\\n\\n' }}{%- endif -%}"


def chat_template(prompt: Prompt) -> str:
    """The Jinja chat template for ``tokenizer.chat_template`` and the GGUF key of the same name."""
    format_ = prompt.turns.form
    template = _CHAT_TEMPLATE
    for name, text in {
        "BOS": "{{ bos_token }}" if format_.writes_bos else "",
        "SYSTEM_TURN": _SYSTEM_TURN if format_.system_turn else "",
        "SYSTEM_TEXT": "" if format_.system_turn else _SYSTEM_TEXT,
        "SYSTEM": _literal(format_.open("system")),
        "ASSISTANT": _literal(format_.assistant),
        "OPENS": _literal(format_.opens),
        "NAMES": _literal(format_.names),
        "CLOSE": _literal(format_.close),
        "ANSWER": _literal(format_.open(format_.assistant)),
        "INSTRUCTION": _literal(prompt.instruction.strip()),
    }.items():
        template = template.replace(name, text)
    return template


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def ollama_template(prompt: Prompt) -> str:
    """The Go template for a Modelfile; the instruction is its SYSTEM. Ollama's runtime adds a BOS."""
    format_ = prompt.turns.form
    if format_.system_turn:
        before = f"{{{{ if .System }}}}{format_.open('system')}{{{{ .System }}}}{format_.close}{{{{ end }}}}"
        before += format_.open("user")
    else:
        before = f"{format_.open('user')}{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}"
    return f"{before}{{{{ .Prompt }}}}{prompt.suffix}{{{{ .Response }}}}"
