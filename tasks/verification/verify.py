"""Proof that a GGUF file is the model it was made from: its tensors, its tokens and what llama.cpp computes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gguf.constants import TokenType
from pydantic import BaseModel, ConfigDict

from deployment.packages.modelfile import Modelfile
from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.parity import COMMANDS, tried_chats
from deployment.prompts.prompt import Message, Prompt, encode_prompt, require_turns
from deployment.runtimes.decoding import AnswerLimits
from deployment.runtimes.llama_server import LlamaServer
from tasks.checkpoints.source import open_source
from tasks.gguf.container import GgufFile
from tasks.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from tasks.verification.checks import Check, at_most, file_checks
from tasks.verification.distributions import distribution, next_token_checks

logger = logging.getLogger(__name__)

# Both tokenizers must agree on these. They are known to differ on a run of spaces with a literal U+2581 in it: Hugging
# Face takes that for a space, SentencePiece and llama.cpp do not.
PARITY_TEXTS = (
    "",
    " ",
    "Audit pump P-101: leak at seal 2, 3.5 bar, 20% over.",
    " leading and trailing  ",
    "two  spaces, three   spaces,\ta tab,\t\ttwo tabs",
    "line\nline\n\nparagraph\r\nwindows",
    "0 00 007 1234567890 12.50 -3 1e-9 SG-402 2024-05-31",
    "<start_of_turn>user\nhi<end_of_turn>",
    "<bos><eos><pad><unk> <unused5> <0x0A>",
    "Überprüfung der Öldichtung, ça va, naïve Δp ≥ 5 µm ± 0,2 °C",
    "检查泵的密封 ポンプの点検 насос работает مضخة बंद है",
    "🔧🛠️ 👩‍🏭 flag 🇩🇪 e\u0301 \u200b\u00a0\ufeff",
    '{"intent": "inspect", "entities": {"asset": ["P-101", "P\\"102"]}}',
    "\x00\x01\x7f\x1b[0m",
)

_CONTINUED = (  # whose next token both runtimes predict
    "Audit pump P-101 for a leak at the seal, pressure 3.5 bar.",
    "Inspect the conveyor belt and the gear box of line 7 tomorrow, then the",
)
_PARITY, _ONE_BOS = "parity", "BOS tokens in a prompt"


class VerifyReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    passed: bool
    checks: list[Check]

    @classmethod
    def of(cls, checks: list[Check]) -> "VerifyReport":
        return cls(passed=all(check.passed for check in checks), checks=checks)

    @property
    def prompt_parity(self) -> bool:
        """Whether llama.cpp makes the training's token ids of every text tried."""
        found = [check.passed for check in self.checks if _PARITY in check.name]
        return bool(found) and all(found)


def verify_gguf(
    gguf: Path, model_dir: Path, prompts: Sequence[str], *, prompt: Prompt | None = None, threads: int = 1
) -> VerifyReport:
    """Compare ``gguf`` with the Hugging Face folder that it was exported from.

    Args:
        prompts: commands whose next token both runtimes predict; a handful is enough.
        prompt: what goes around a command.

    Raises:
        UsageError: the file cannot be read, or llama.cpp refuses it.
    """
    from tasks.checkpoints.loading import load_tokenizer

    prompt = prompt or Prompt()
    tokenizer = load_tokenizer(model_dir)
    require_turns(tokenizer, prompt)
    with GgufFile(gguf) as file, open_source(model_dir) as source:
        model, as_written = source.model, _reads_as_written(file)
        checks = [*file_checks(file, source), _stop_token(file, prompt)]
    with LlamaServer(gguf, prompt=prompt, threads=threads, slots=1) as server:
        texts = [text for text in (*PARITY_TEXTS, *prompts) if as_written(text)]
        commands = [*texts, *filter(as_written, COMMANDS)]
        checks += [
            _token_parity(server, tokenizer, texts),
            _same_tokens(
                "prompt",
                commands,
                lambda command: encode_prompt(tokenizer, prompt, command),
                server.tokenize_prompt,
            ),
            *_chats(server, tokenizer, prompt, commands),
            _one_bos(server, tokenizer, prompts),
        ]
        ids = [encode_prompt(tokenizer, prompt, command) for command in prompts]
        found = [distribution(server.next_token_logprobs(item)) for item in ids]
    checks += next_token_checks(gguf, model_dir, model, ids, found)
    for check in checks:
        if not check.passed:
            logger.error("%s: %s", gguf, check.finding())
    return VerifyReport.of(checks)


def verify_conversion(gguf: Path, model_dir: Path, *, threads: int = 1) -> VerifyReport:
    """The same for a folder of any prompt: texts, and conversations through the folder's own chat template.

    Raises UsageError where the file cannot be read, or llama.cpp refuses it.
    """
    from tasks.checkpoints.loading import load_tokenizer

    tokenizer = load_tokenizer(model_dir)
    with GgufFile(gguf) as file, open_source(model_dir) as source:
        model, texts = source.model, list(filter(_reads_as_written(file), PARITY_TEXTS))
        checks = list(file_checks(file, source))
    if not checks[0].passed:  # llama.cpp would refuse the file in its own words
        return VerifyReport.of(checks)
    with LlamaServer(gguf, prompt=Prompt(), threads=threads, slots=1) as server:
        checks.append(_token_parity(server, tokenizer, texts))
        if tokenizer.chat_template:
            checks += _own_template(server, tokenizer, texts)
        ids = [tokenizer.encode(text) for text in _CONTINUED]
        found = [distribution(server.next_token_logprobs(item)) for item in ids]
    checks += next_token_checks(gguf, model_dir, model, ids, found)
    return VerifyReport.of(checks)


def _reads_as_written(file: GgufFile) -> Callable[[str], bool]:
    """Whether both tokenizers read a text alike, of which llama.cpp leaves out a normaliser."""
    pre = PRE_TOKENIZERS.get(str(file.metadata.get("tokenizer.ggml.pre")))
    return lambda text: pre is None or pre.reads_as_written(text)


def _token_parity(server: LlamaServer, tokenizer: Any, texts: Sequence[str]) -> Check:
    return _same_tokens(
        "token",
        texts,
        lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True),
        server.tokenize,
    )


def _own_template(server: LlamaServer, tokenizer: Any, texts: Sequence[str]) -> Iterator[Check]:
    def transformers(text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        writes_bos = tokenizer.bos_token is not None and rendered.startswith(tokenizer.bos_token)
        return tokenizer.encode(rendered, add_special_tokens=not writes_bos)

    def llama_cpp(text: str) -> list[int]:
        return server.chat_template_ids([Message("user", text)])

    yield _same_tokens("chat template", texts, transformers, llama_cpp)
    if tokenizer.bos_token_id is not None and tokenizer.encode("", add_special_tokens=True):
        found = llama_cpp(_CONTINUED[0]).count(tokenizer.bos_token_id)
        yield Check(name=_ONE_BOS, value=found, bound=1, passed=found == 1)


def _stop_token(file: GgufFile, prompt: Prompt) -> Check:
    """llama.cpp stops at the end of a turn by its text, if it is a control token."""
    tokens, types = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.token_type"]
    stops = [id_ for id_, token in enumerate(tokens) if token == prompt.end and types[id_] == TokenType.CONTROL]
    return Check(name="stop tokens", value=len(stops), bound=1, passed=len(stops) == 1, detail=f"ids {stops}")


def _same_tokens(
    name: str,
    texts: Sequence[Any],
    expected: Callable[[Any], list[int]],
    found: Callable[[Any], list[int]],
) -> Check:
    different = [text for text in texts if expected(text) != found(text)]
    return at_most(
        f"{name} {_PARITY}: texts with other tokens", len(different), 0, _shown(different[0]) if different else ""
    )


def _shown(text: str | Sequence[Message]) -> str:
    return repr(text) if isinstance(text, str) else f"{text[-1].content!r} after {len(text) - 1} messages"


def _chats(server: LlamaServer, tokenizer: Any, prompt: Prompt, commands: Sequence[str]) -> Iterator[Check]:
    """Chats as text through each template, against the ids that training has of their last command."""
    modelfile = Modelfile.of("", prompt, AnswerLimits(), "")

    def transformers(chat: Sequence[Message]) -> list[int]:
        text = tokenizer.apply_chat_template(list(map(asdict, chat)), tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=not prompt.turns.form.writes_bos)

    def ollama(chat: Sequence[Message]) -> list[int]:
        text = ollama_prompt(modelfile.template, chat, system=modelfile.system)
        return server.tokenize(text, add_bos=True, parse_special=True)

    tried = list(tried_chats(commands))
    expected = {command: encode_prompt(tokenizer, prompt, command) for command in commands}
    for name, found in (("transformers", transformers), ("llama.cpp", server.chat_template_ids), ("Ollama", ollama)):
        yield _same_tokens(f"{name} chat template", tried, lambda chat: expected[chat[-1].content], found)


def _one_bos(server: LlamaServer, tokenizer: Any, prompts: Sequence[str]) -> Check:
    """One before each prompt, or none where the tokenizer puts none: there a BOS may also be what opens a turn."""
    if not tokenizer.encode("", add_special_tokens=True):
        found = len(server.tokenize("", add_bos=True))
        return at_most(_ONE_BOS, found, 0)
    counts = [
        ids.count(tokenizer.bos_token_id)
        for command in prompts or [""]
        for ids in (server.tokenize_prompt(command), server.chat_template_ids([Message("user", command)]))
    ]
    worst = max(counts, key=lambda count: abs(count - 1))
    return Check(name=_ONE_BOS, value=worst, bound=1, passed=worst == 1)
