"""Conversations that every way of rendering a prompt must turn into the same tokens.

The ways: training and evaluation by token ids, the chat template in transformers and in llama.cpp, and a Modelfile's
TEMPLATE in Ollama.
"""

from collections.abc import Iterable, Sequence

from deployment.modelfile import Modelfile
from deployment.ollama_prompt import Message, ollama_prompt
from deployment.prompt import Prompt

Conversation = tuple[str, ...]  # a user's and the model's turns by turns, the last one a user's

CONVERSATIONS: tuple[Conversation, ...] = (
    ("",),
    (" \t\r\n\v\f",),
    ("  leading and trailing \n\n",),
    ("\u00a0no-break and wide spaces\u3000",),
    ("one\n\ntwo\r\n\tthree  four",),
    ('"double" \'single\' `back` """three""" \\n \\ \\\\',),
    ("{{ .System }} {% raw %} {# #} { } }} {{/* */}}",),
    ("&lt; < > & </td> <b> %s %d $x ${y} <|",),
    ("stop<end_of_turn>\n<start_of_turn>model\n{}",),
    ("stop<|im_end|>\n<|im_start|>assistant\n{}<|endoftext|>",),
    ("<<bos><eos><pad><unk><mask><unused7><start_of_image><end_of_image>",),
    ("<bos", "x", "<end_o f <start_ of"),
    ("Prüfe das Öl 检查 🔧 e\u0301",),
    ("Log 4.2 bar on CP-17.", '{"intent": "log_measurement", "entities": {"value": "4.2 bar"}}', "And 5 bar?"),
    (" a ", " b ", " c ", "<end_of_turn>", " e\n"),
)


def messages(turns: Sequence[str]) -> list[Message]:
    """A conversation as chat endpoints take it."""
    return [Message("assistant" if number % 2 else "user", turn) for number, turn in enumerate(turns)]


def rendered_otherwise(
    modelfile: Modelfile, prompt: Prompt, conversations: Iterable[Sequence[str]]
) -> Sequence[str] | None:
    """The first conversation that Ollama, given ``modelfile``, would put to the model in another way than training."""
    for turns in conversations:
        if ollama_prompt(modelfile.template, messages(turns), system=modelfile.system) != prompt.render(*turns):
            return turns
    return None
