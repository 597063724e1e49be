"""The prompt: a turn format around one audit command.

Everything that asks the model something takes its text from here: training, evaluation, the chat template in tokenizer
and GGUF, the Modelfile and the gateway. Each of them strips the same blanks and breaks typed control tokens alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from deployment.turns import BLANKS, Turns
from registry.errors import UsageError

_ANY_COMMAND = "Audit"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that a prompt needs."""

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a command is put to the model; ``instruction`` comes before it, in the system's turn or in the user's.

    ``compact`` is how the model learns to answer: JSON without blanks between its parts, which takes fewer tokens.
    """

    instruction: str = ""
    turns: Turns = Turns.GEMMA
    compact: bool = False

    @property
    def prefix(self) -> str:
        """The text before the command; the tokenizer or runtime adds a BOS where the model has one."""
        format_, instruction = self.turns.form, self.plain_text(self.instruction)
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

    def plain_text(self, text: str) -> str:
        """What somebody wrote, as it goes into a turn."""
        return self.turns.form.plain_text(text)

    def parts(self, turns: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """The texts of a conversation in order, without BOS, and whether control tokens in them count.

        ``turns`` are a user's and the model's in turn, the last one a user's.
        """
        format_ = self.turns.form
        yield self.prefix, True
        for number, turn in enumerate(turns):
            yield self.plain_text(turn), False
            yield (format_.close + format_.open("user") if number % 2 else self.suffix), True

    def render(self, *turns: str) -> str:
        """The whole prompt of a conversation, as :meth:`parts` has it."""
        return "".join(text for text, _ in self.parts(turns))


def require_turns(tokenizer: Tokenizer, prompt: Prompt) -> None:
    """Raise UsageError where the tokenizer lacks a control token of the prompt's turns, or makes other tokens of a
    command in its turn than of the command alone."""
    for token in prompt.turns.form.control:
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise UsageError(
                f"the tokenizer has no token {token}, with which the turn format {prompt.turns} is made; set turns in "
                f"the profile to the model's own of {', '.join(Turns)}."
            )
    turn, command = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt.prefix, _ANY_COMMAND))
    if tokenizer.encode(prompt.prefix + _ANY_COMMAND, add_special_tokens=False) != turn + command:
        raise UsageError(
            "the tokenizer joins a command with what stands before it, as one does that puts a space in front of each "
            "text; take a model whose tokenizer does not."
        )


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, *turns: str) -> list[int]:
    """Token ids of a command or conversation, after the BOS that the tokenizer itself puts first."""
    ids = tokenizer.encode("", add_special_tokens=True)
    for text, controls in prompt.parts(turns):
        ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not controls)
    return ids


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
{%- set system = messages[0]['content']PLAIN -%}{%- set turns = messages[1:] -%}\
{%- else -%}\
{%- set system = INSTRUCTION -%}{%- set turns = messages -%}\
{%- endif -%}\
SYSTEM_TURN\
{%- for message in turns -%}\
{%- set role = ASSISTANT if message['role'] == 'assistant' else message['role'] -%}\
{{ OPENS + role + NAMES }}\
SYSTEM_TEXT\
{{ message['content']PLAIN }}{{ CLOSE }}\
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
        "PLAIN": f".strip({_literal(BLANKS)})"
        + "".join(f".replace({_literal(control)}, {_literal(f'< {control[1:]}')})" for control in format_.controls),
        "INSTRUCTION": _literal(prompt.plain_text(prompt.instruction)),
    }.items():
        template = template.replace(name, text)
    return template


def _literal(text: str, mark: str = "'") -> str:
    """As Jinja, and with the other mark Go, writes a text in quotes."""
    text = text.replace("\\", "\\\\").replace(mark, f"\\{mark}")
    return mark + "".join(f"\\{_ESCAPES[char]}" if char in _ESCAPES else char for char in text) + mark


_ESCAPES = dict(zip("\t\n\r\v\f", "tnrvf", strict=True))

# Go's text/template, as Ollama renders it: messages in, and all system messages joined. ``slice`` and ``len`` count
# bytes; the template "text" holds back blanks until something follows them, and breaks control tokens.
_OLLAMA_TEMPLATE = """\
{{- define "text" }}{{ $begun := false }}{{ $blanks := "" }}
{{- range $at := len . }}{{ $rest := slice $ $at }}{{ $byte := slice $rest 0 1 }}
{{- if eq $byte BLANKS }}{{ if $begun }}{{ $blanks = print $blanks $byte }}{{ end }}
{{- else }}{{ $blanks }}{{ $byte }}{{ $blanks = "" }}{{ $begun = true }}
{{- if eq $byte "<" }}{{ if or CONTROLS }} {{ end }}{{ end }}
{{- end }}{{ end }}{{ end }}
{{- $first := true }}SYSTEM_TURN
{{- range .Messages }}{{ if ne .Role "system" }}OPENS
{{- if eq .Role "assistant" }}ASSISTANT{{ else }}{{ .Role }}{{ end }}{{ NAMES }}SYSTEM_TEXT
{{- $first = false }}{{ template "text" .Content }}CLOSE{{ end }}{{ end }}ANSWER{{ .Response }}"""
_GO_SYSTEM_TURN = '{{ if .System }}SYSTEM{{ template "text" .System }}CLOSE{{ end }}'
_GO_SYSTEM_TEXT = '{{ if and $first $.System }}{{ template "text" $.System }}{{ "\\n\\n" }}{{ end }}'


def ollama_template(prompt: Prompt) -> str:
    """The Go template for a Modelfile; the instruction is its SYSTEM. Ollama's runtime adds a BOS.

    Ranging over a number needs an Ollama that was built with Go 1.24 or later.
    """
    format_ = prompt.turns.form
    begins = [
        f"(and (ge (len $rest) {length}) (eq (slice $rest 0 {length}) {_literals(controls)}))"
        for length, controls in groupby(sorted(format_.controls, key=len), len)
    ]
    template = _OLLAMA_TEMPLATE
    for name, text in {
        "BLANKS": _literals(BLANKS),
        "CONTROLS": " ".join(begins),
        "SYSTEM_TURN": _GO_SYSTEM_TURN if format_.system_turn else "",
        "SYSTEM_TEXT": "" if format_.system_turn else _GO_SYSTEM_TEXT,
        "SYSTEM": format_.open("system"),
        "ASSISTANT": format_.assistant,
        "OPENS": format_.opens,
        "NAMES": _literal(format_.names, '"'),
        "CLOSE": format_.close,
        "ANSWER": format_.open(format_.assistant),
    }.items():
        template = template.replace(name, text)
    return template


def _literals(texts: Iterable[str]) -> str:
    return " ".join(_literal(text, '"') for text in texts)
