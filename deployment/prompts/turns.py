"""Turn formats: what stands around a command and an answer, by family of models."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

BLANKS = " \t\n\r\v\f"  # what every template engine that renders a turn can strip


@dataclass(frozen=True, kw_only=True)
class TurnFormat:
    """One format. A turn is ``opens``, the role, ``names``, the text, ``end``, and ``between`` before the next.

    Args:
        control: the control tokens of a turn, which a tokenizer must have.
        end: the one of them that ends an answer.
        assistant: how the format calls the model.
        controls: how the control tokens of the family's vocabularies begin, those of a turn among them; each begins
            with "<" and has no further one.
        system_turn: an instruction is a turn of its own; else it stands before the command in the user's.
        writes_bos: whether the chat template begins with the BOS, as the family's own does.
    """

    opens: str
    names: str
    end: str
    between: str
    control: tuple[str, ...]
    controls: tuple[str, ...]
    assistant: str = "assistant"
    system_turn: bool = True
    writes_bos: bool = True

    def open(self, role: str) -> str:
        """The text from the start of a turn to its content."""
        return f"{self.opens}{role}{self.names}"

    @property
    def close(self) -> str:
        """The text from the end of a turn's content to the next turn."""
        return self.end + self.between

    def plain_text(self, text: str) -> str:
        """What somebody wrote, as it goes into a turn: without blanks around it and, as "< end_of_turn>", without
        control tokens. Runtimes that are sent text would find those wherever they are written."""
        text = text.strip(BLANKS)
        for control in self.controls:
            text = text.replace(control, f"< {control[1:]}")
        return text


class Turns(StrEnum):
    """The turn formats by name."""

    GEMMA = "gemma"
    CHATML = "chatml"

    @property
    def form(self) -> TurnFormat:
        return _FORMATS[self]


_FORMATS = {
    Turns.GEMMA: TurnFormat(
        opens="<start_of_turn>",
        names="\n",
        end="<end_of_turn>",
        between="\n",
        control=("<start_of_turn>", "<end_of_turn>"),
        controls=("<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<end_of", "<unused", "<start_of"),
        assistant="model",
        system_turn=False,  # Gemma has no system role
    ),
    Turns.CHATML: TurnFormat(
        opens="<|im_start|>",
        names="\n",
        end="<|im_end|>",
        between="\n",
        control=("<|im_start|>", "<|im_end|>"),
        controls=(
            "<|",
            "<issue_",
            "<jupyter_",
            "<file_sep>",
            "<filename>",
            "<gh_stars>",
            "<repo_name>",
            "<reponame>",
            "<empty_output>",
        ),
        writes_bos=False,  # SmolLM2 calls <|im_start|> its BOS
    ),
}


def turns_in(tokens: Collection[str]) -> Turns | None:
    """The format whose control tokens are all among ``tokens``; also of a template's text, where it has them all."""
    return next((turns for turns in Turns if all(token in tokens for token in turns.form.control)), None)


def as_plain_text(command: str) -> str:
    """``command`` as any of the formats has it in a turn, for a model whose own is not known."""
    for turns in Turns:
        command = turns.form.plain_text(command)
    return command
