"""The prompt: Gemma's turn format around one audit command.

Everything that asks the model something takes its text from here: training, evaluation, the chat template in tokenizer
and GGUF, the Modelfile and the gateway.
"""

from dataclasses import dataclass
from typing import Protocol

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
_ANSWER_OPENS = f"{END_OF_TURN}\n{START_OF_TURN}model\n"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that a prompt needs."""

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a command is put to the model; ``instruction`` goes before the command in the user's turn, as Gemma has no
    system role."""

    instruction: str = ""

    @property
    def prefix(self) -> str:
        """The text before the command; the tokenizer or runtime adds the one BOS."""
        instruction = f"{self.instruction.strip()}\n\n" if self.instruction.strip() else ""
        return f"{START_OF_TURN}user\n{instruction}"

    @property
    def suffix(self) -> str:
        """The text after the command, up to where the answer begins."""
        return _ANSWER_OPENS

    def render(self, command: str) -> str:
        """The whole prompt without BOS."""
        return self.prefix + command.strip() + self.suffix


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, command: str) -> list[int]:
    """Token ids of the prompt with one BOS. A control token typed by a user stays text."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [
        *bos,
        *tokenizer.encode(prompt.prefix, add_special_tokens=False),
        *tokenizer.encode(command.strip(), add_special_tokens=False, split_special_tokens=True),
        *tokenizer.encode(prompt.suffix, add_special_tokens=False),
    ]


def encode_answer(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Token ids of the answer and the end of the turn."""
    return [
        *tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=True),
        tokenizer.convert_tokens_to_ids(END_OF_TURN),
    ]


# Jinja, as Hugging Face and llama.cpp render it; an own instruction becomes the default system message.
_CHAT_TEMPLATE = """\
{{ bos_token }}\
{%- if messages[0]['role'] == 'system' -%}\
{%- set system = messages[0]['content'] | trim -%}{%- set turns = messages[1:] -%}\
{%- else -%}\
{%- set system = INSTRUCTION -%}{%- set turns = messages -%}\
{%- endif -%}\
{%- for message in turns -%}\
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\
{{ '<start_of_turn>' + role + '\\n' }}\
{%- if loop.first and system -%}{{ system + '\\n\\n' }}{%- endif -%}\
{{ message['content'] | trim }}{{ '<end_of_turn>\\n' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""


def chat_template(prompt: Prompt) -> str:
    """The Jinja chat template for ``tokenizer.chat_template`` and the GGUF key of the same name."""
    literal = "'" + prompt.instruction.strip().replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return _CHAT_TEMPLATE.replace("INSTRUCTION", literal)


def ollama_template() -> str:
    """The Go template for a Modelfile; the instruction is its SYSTEM. Ollama's runtime adds the BOS."""
    return (
        f"{START_OF_TURN}user\n{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}{{{{ .Prompt }}}}"
        f"{_ANSWER_OPENS}{{{{ .Response }}}}"
    )


def as_plain_text(command: str) -> str:
    """``command`` with typed control tokens broken up, for runtimes that are sent text instead of token ids."""
    return command.replace("<start_of", "< start_of").replace("<end_of", "< end_of")
