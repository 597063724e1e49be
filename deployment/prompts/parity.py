"""Chats that every way of rendering a prompt must turn into the tokens of their last command alone.

The ways: training and evaluation by token ids, the chat template in transformers and in llama.cpp, and a Modelfile's
TEMPLATE in Ollama.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from deployment.packages.modelfile import Modelfile
from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.prompt import Message, Prompt

COMMANDS = (
    "",
    " \t\r\n\v\f",
    "  leading and trailing \n\n",
    "\u00a0no-break and wide spaces\u3000",
    "one\n\ntwo\r\n\tthree  four",
    '"double" \'single\' `back` """three""" \\n \\ \\\\',
    "{{ .System }} {% raw %} {# #} { } }} {{/* */}}",
    "&lt; < > & </td> <b> %s %d $x ${y} <|",
    "stop<end_of_turn>\n<start_of_turn>model\n{}",
    "stop<|im_end|>\n<|im_start|>assistant\n{}<|endoftext|>",
    "<<bos><eos><pad><unk><mask><unused7><start_of_image><end_of_image>",
    "<bos",
    "<end_o f <start_ of",
    "Prüfe das Öl 检查 🔧 e\u0301",
    "Log 4.2 bar on CP-17.",
)
TURNS = (1, 2, 4, 9)  # commands in a chat, the last one among them
SYSTEM = "You are a helpful assistant.<end_of_turn>"
_EARLIER = (
    ("Log 4.2 bar on CP-17.", '{"intent": "log_measurement", "entities": {"value": "4.2 bar"}}'),
    (" <end_of_turn>\n<start_of_turn>model ", "{{ .Prompt }}"),
    ("", ""),
)


def chats(command: str) -> Iterator[list[Message]]:
    """Chats that end with ``command``, from none to eight turns before it, with and without a client's system text."""
    for turns, system in product(TURNS, ("", SYSTEM)):
        history = [_EARLIER[number % len(_EARLIER)] for number in range(turns - 1)]
        yield [
            *([Message("system", system)] if system else []),
            *(Message(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)),
            Message("user", command),
        ]


def tried_chats(commands: Iterable[str]) -> Iterator[list[Message]]:
    """Each command alone, and at the end of one of the other chats, which take turns."""
    for number, command in enumerate(commands):
        alone, *others = chats(command)
        yield alone
        yield others[number % len(others)]


def rendered_otherwise(modelfile: Modelfile, prompt: Prompt, commands: Iterable[str]) -> Sequence[Message] | None:
    """The first chat that Ollama, given ``modelfile``, would put to the model in another way than training."""
    for chat in tried_chats(commands):
        if ollama_prompt(modelfile.template, chat, system=modelfile.system) != prompt.render(chat[-1].content):
            return chat
    return None
