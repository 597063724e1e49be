"""The prompt: a turn format around one audit command.

Everything that asks the model something takes its text from here: training, evaluation, the chat template in tokenizer
and GGUF, the Modelfile and the gateway. Each of them strips the same blanks and breaks typed control tokens alike.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from deployment.prompts.turns import BLANKS, Turns
from registry.errors import UsageError

_ANY_COMMAND = "Audit"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that a prompt needs."""

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True)
class Message:
    """One message of a chat, as clients send it."""

    role: str  # "system", "user" or "assistant"
    content: str


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

    def parts(self, command: str) -> Iterator[tuple[str, bool]]:
        """The texts of a prompt in order, without BOS, and whether control tokens in them count."""
        yield self.prefix, True
        yield self.plain_text(command), False
        yield self.suffix, True

    def render(self, command: str) -> str:
        """The whole prompt, as :meth:`parts` has it."""
        return "".join(text for text, _ in self.parts(command))


def prompt_of(rendered: str) -> Prompt | None:
    """The prompt that renders a blank command as ``rendered``, which is how another maker's template is known."""
    for turns in Turns:
        form = turns.form
        user = form.open("user")
        before, after = (form.open("system"), form.close + user) if form.system_turn else (user, "\n\n")
        plain = Prompt(turns=turns)
        instruction = rendered.removesuffix(plain.suffix).removeprefix(before).removesuffix(after)
        for prompt in (plain, Prompt(turns=turns, instruction=instruction)):
            if prompt.render("") == rendered:
                return prompt
    return None


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


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, command: str) -> list[int]:
    """Token ids of a command in its prompt, after the BOS that the tokenizer itself puts first."""
    ids = tokenizer.encode("", add_special_tokens=True)
    for text, controls in prompt.parts(command):
        ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not controls)
    return ids


def encode_answer(tokenizer: Tokenizer, prompt: Prompt, answer: str) -> list[int]:
    """Token ids of the answer and the end of the turn."""
    return [
        *tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=True),
        tokenizer.convert_tokens_to_ids(prompt.end),
    ]


# Both templates render a chat's last command alone: the model knows single commands, and an earlier turn or a client's
# system text makes its answers wrong.

# Jinja, as Hugging Face and llama.cpp render it. The texts of all messages are read, since llama.cpp puts a system text
# into the first user's where a template leaves it unread; the parts of one are joined as llama.cpp joins them.
_CHAT_TEMPLATE = """\
{%- set chat = namespace(command='') -%}\
{%- for message in messages -%}\
{%- set text = message['content'] or '' -%}\
{%- if text is not string -%}\
{%- set text = text | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -%}\
{%- endif -%}\
{%- set text = textPLAIN -%}\
{%- if message['role'] == 'user' -%}{%- set chat.command = text -%}{%- endif -%}\
{%- endfor -%}\
{{ BOSPREFIX + chat.command + CLOSE }}\
{%- if add_generation_prompt -%}{{ ANSWER }}{%- endif -%}"""


def chat_template(prompt: Prompt) -> str:
    """The Jinja chat template for ``tokenizer.chat_template`` and the GGUF key of the same name."""
    format_ = prompt.turns.form
    template = _CHAT_TEMPLATE
    for name, text in {
        "PLAIN": f".strip({_literal(BLANKS)})"
        + "".join(f".replace({_literal(control)}, {_literal(f'< {control[1:]}')})" for control in format_.controls),
        "BOS": "bos_token + " if format_.writes_bos else "",
        "CLOSE": _literal(format_.close),
        "ANSWER": _literal(format_.open(format_.assistant)),
        "PREFIX": _literal(prompt.prefix),
    }.items():
        template = template.replace(name, text)
    return template


def _literal(text: str, mark: str = "'") -> str:
    """As Jinja, and with the other mark Go, writes a text in quotes."""
    text = text.replace("\\", "\\\\").replace(mark, f"\\{mark}")
    return mark + "".join(f"\\{_ESCAPES[char]}" if char in _ESCAPES else char for char in text) + mark


_ESCAPES = dict(zip("\t\n\r\v\f", "tnrvf", strict=True))

# Go's text/template, as Ollama renders it. ``slice`` and ``len`` count bytes; the template "text" holds back blanks
# until something follows them, and breaks control tokens.
_OLLAMA_TEMPLATE = """\
{{- define "text" }}{{ $begun := false }}{{ $blanks := "" }}
{{- range $at := len . }}{{ $rest := slice $ $at }}{{ $byte := slice $rest 0 1 }}
{{- if eq $byte BLANKS }}{{ if $begun }}{{ $blanks = print $blanks $byte }}{{ end }}
{{- else }}{{ $blanks }}{{ $byte }}{{ $blanks = "" }}{{ $begun = true }}
{{- if eq $byte "<" }}{{ if or CONTROLS }} {{ end }}{{ end }}
{{- end }}{{ end }}{{ end }}
{{- $command := "" }}{{ range .Messages }}{{ if eq .Role "user" }}{{ $command = .Content }}{{ end }}{{ end }}
{{- PREFIX }}{{ template "text" $command }}{{ SUFFIX }}{{ .Response }}"""


def ollama_template(prompt: Prompt) -> str:
    """The Go template for a Modelfile. Ollama's runtime adds a BOS.

    Ranging over a number needs an Ollama that was built with Go 1.24 or later.
    """
    begins = [
        f"(and (ge (len $rest) {length}) (eq (slice $rest 0 {length}) {_literals(controls)}))"
        for length, controls in groupby(sorted(prompt.turns.form.controls, key=len), len)
    ]
    template = _OLLAMA_TEMPLATE
    for name, text in {
        "BLANKS": _literals(BLANKS),
        "CONTROLS": " ".join(begins),
        "SUFFIX": _literals([prompt.suffix]),
        "PREFIX": _literals([prompt.prefix]),
    }.items():
        template = template.replace(name, text)
    return template


def _literals(texts: Iterable[str]) -> str:
    return " ".join(_literal(text, '"') for text in texts)
