"""Proof that a GGUF file is the model it was made from: its tensors, its tokens and what llama.cpp computes.

Two comparisons of next-token distributions: with the folder's float32 weights (what quantisation costs) and
with the file's own weights, dequantised, in PyTorch (whether llama.cpp computes the same function).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType, TokenType
from pydantic import BaseModel, ConfigDict

from deployment.modelfile import Limits, Modelfile
from deployment.ollama_prompt import ollama_prompt
from deployment.prompt import Prompt, encode_prompt, require_turns
from deployment.prompt_parity import CONVERSATIONS, Conversation, messages
from registry.errors import UsageError
from tasks.evaluation.llama_server import LlamaServer
from tasks.gguf_export.architectures import EMBEDDING, OUTPUT, Model, text_name
from tasks.gguf_export.checks import Check, at_most, file_checks
from tasks.gguf_export.container import GgufFile
from tasks.gguf_export.pre_tokenizers import PRE_TOKENIZERS
from tasks.gguf_export.reader import tensor_rows
from tasks.gguf_export.source import open_source

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

_PARITY = "parity"
_KL_BOUND = {  # nats per next token, against the folder's float32 weights
    GGMLQuantizationType.F32: 0.001,
    GGMLQuantizationType.F16: 0.001,
    GGMLQuantizationType.BF16: 0.02,
    GGMLQuantizationType.Q8_0: 0.05,
}
_KL_BOUND_BELOW_8_BITS = 4.0  # a wrong file is worse; what a coarse type costs is for the evaluation to say
_RUNTIME_KL_BOUND = 0.05  # llama.cpp rounds activations to 8 bits for block types


class VerifyReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    passed: bool
    checks: list[Check]

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
    from transformers import AutoTokenizer

    prompt = prompt or Prompt()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    require_turns(tokenizer, prompt)
    with GgufFile(gguf) as file, open_source(model_dir) as source:
        model, pre = source.model, PRE_TOKENIZERS.get(str(file.metadata.get("tokenizer.ggml.pre")))
        checks = [*file_checks(file, source), _stop_token(file, prompt)]

    def as_written(*parts: str) -> bool:
        return pre is None or pre.reads_as_written("".join(parts))

    with LlamaServer(gguf, prompt=prompt, threads=threads, slots=1) as server:
        texts = [text for text in (*PARITY_TEXTS, *prompts) if as_written(text)]
        conversations = [turns for turns in CONVERSATIONS if as_written(*turns)]
        checks += [
            _same_tokens(
                "token",
                texts,
                lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True),
                server.tokenize,
            ),
            _same_tokens(
                "prompt",
                [*texts, *(turns[0] for turns in conversations)],
                lambda command: encode_prompt(tokenizer, prompt, command),
                server.tokenize_prompt,
            ),
            *_conversations(server, tokenizer, prompt, [*conversations, *((text,) for text in texts)]),
            _one_bos(server, tokenizer, prompts),
        ]
        ids = [encode_prompt(tokenizer, prompt, command) for command in prompts]
        found = [_distribution(server.next_token_logprobs(item)) for item in ids]
    checks += _next_token_checks(gguf, model_dir, model, ids, found)
    for check in checks:
        if not check.passed:
            logger.error("%s: %s is %.3g, bound %.3g %s", gguf, check.name, check.value, check.bound, check.detail)
    return VerifyReport(passed=all(check.passed for check in checks), checks=checks)


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
        f"{name} {_PARITY}: texts with other tokens", len(different), 0, repr(different[0]) if different else ""
    )


def _conversations(
    server: LlamaServer, tokenizer: Any, prompt: Prompt, conversations: Sequence[Conversation]
) -> Iterator[Check]:
    """Conversations as text through each template, against the ids of training."""
    modelfile = Modelfile.of("", prompt, Limits(), "")

    def transformers(turns: Sequence[str]) -> list[int]:
        chat = [{"role": message.role, "content": message.content} for message in messages(turns)]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=not prompt.turns.form.writes_bos)

    def llama_cpp(turns: Sequence[str]) -> list[int]:
        return server.chat_template_ids(*turns)

    def ollama(turns: Sequence[str]) -> list[int]:
        text = ollama_prompt(modelfile.template, messages(turns), system=modelfile.system)
        return server.tokenize(text, add_bos=True, parse_special=True)

    for name, found in (("transformers", transformers), ("llama.cpp", llama_cpp), ("Ollama", ollama)):
        yield _same_tokens(
            f"{name} chat template", conversations, lambda turns: encode_prompt(tokenizer, prompt, *turns), found
        )


def _one_bos(server: LlamaServer, tokenizer: Any, prompts: Sequence[str]) -> Check:
    """One before each prompt, or none where the tokenizer puts none: there a BOS may also be what opens a turn."""
    if not tokenizer.encode("", add_special_tokens=True):
        found = len(server.tokenize("", add_bos=True))
        return at_most("BOS tokens in a prompt", found, 0)
    counts = [
        render(command).count(tokenizer.bos_token_id)
        for command in prompts or [""]
        for render in (server.tokenize_prompt, server.chat_template_ids)
    ]
    worst = max(counts, key=lambda count: abs(count - 1))
    return Check(name="BOS tokens in a prompt", value=worst, bound=1, passed=worst == 1)


def _next_token_checks(
    gguf: Path, model_dir: Path, described: Model, ids: Sequence[list[int]], found: Sequence[np.ndarray]
) -> Iterator[Check]:
    import torch
    from transformers import AutoModelForCausalLM

    if not ids:
        return
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    source = [_hf_distribution(model, item) for item in ids]
    with GgufFile(gguf) as file:
        _load_from_gguf(model, file, described)
        types = {tensor.type for tensor in file.tensors.values()}
    twin = [_hf_distribution(model, item) for item in ids]
    bound = max(_KL_BOUND.get(type_, _KL_BOUND_BELOW_8_BITS) for type_ in types)
    yield at_most("KL to the float32 model", max(map(_kl, source, found)), bound)
    yield at_most("KL to the file's weights in PyTorch", max(map(_kl, twin, found)), _RUNTIME_KL_BOUND)
    likely = max(
        float(np.abs(expected - actual)[expected > np.log(0.01)].max(initial=0.0))
        for expected, actual in zip(twin, found, strict=True)
    )
    yield at_most("log-probability difference of likely tokens", likely, 0.5)


def _load_from_gguf(model: Any, file: GgufFile, described: Model) -> None:
    """Give ``model`` the weights that lie in ``file``."""
    import torch

    with torch.no_grad():
        for stored_name, parameter in model.named_parameters():
            name = text_name(stored_name) if described.architecture.wrapper == model.config.model_type else stored_name
            if name is None:
                continue
            if name == OUTPUT and described.tied:
                name = EMBEDDING
            start = 0
            rows = parameter.view(-1, parameter.shape[-1])
            for values in tensor_rows(file, described.gguf_name(name), described.layout(name)):
                rows[start : start + len(values)] = torch.from_numpy(values.copy())
                start += len(values)


def _hf_distribution(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


def _distribution(logprobs: dict[int, float]) -> np.ndarray:
    """Log-probabilities by token id."""
    values = np.full(max(logprobs) + 1, -np.inf)
    values[list(logprobs)] = list(logprobs.values())
    return values


def _kl(expected: np.ndarray, found: np.ndarray) -> float:
    """KL(expected || found) in nats, over the tokens that have a probability at all."""
    if expected.shape != found.shape:
        raise UsageError(f"the file has {len(found)} tokens where the folder's model has {len(expected)}.")
    some = expected > -60  # e^-60: nothing of the sum is lost, and float32 does not underflow
    return float(np.sum(np.exp(expected[some]) * (expected[some] - found[some])))
