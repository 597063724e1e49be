"""How far the exported file is from the fake-quantised model that training ended with.

    python -m tests.benchmarks.export_error MODEL [--data FILE.jsonl] [--rows 40] [--weights q4_0] [--embedding q8_0]

MODEL is the folder of a model trained with QAT on these types, whose weights lie on their grid: in float32 they are the
dequantised file. llama.cpp answers the commands of FILE from that float32 twin, with a float32 KV cache, and from the
file itself; PyTorch reads the same tokens; the next-token distributions are compared at every position of an answer.
llama.cpp rounds GELU to float16, which the twin's reference does too; what a sum's order moves across a rounding step
then stays apart, as PyTorch in float64 with that GELU shows. The file itself is held against the plain model.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import xllamacpp
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt, chat_template, encode_prompt
from deployment.runtimes.llama_server import LlamaServer
from registry.cores import usable_cores
from tasks.checkpoints.architectures import describe, is_norm
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import tensor_rows
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training.models import load_model

_PROMPT = Prompt()
_LIKELIEST = 256  # tokens of each position whose log-probabilities are compared
_MAX_TOKENS = 192
_FLOAT32_CACHE = {  # keys and values as PyTorch keeps them, not in the float16 that a device uses
    "cache_type_k": xllamacpp.ggml_type.GGML_TYPE_F32,
    "cache_type_v": xllamacpp.ggml_type.GGML_TYPE_F32,
    "flash_attn_type": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_FLOAT32_STEP = 1e-7  # a share of probability that llama.cpp's float32 log-probabilities cannot tell from none


@dataclass
class Distance:
    """Of one model's next-token distributions from another's, over the positions of all answers."""

    kl: list[float] = field(default_factory=list)  # nats, over the likeliest tokens and all others as one
    differences: list[float] = field(default_factory=list)  # the largest of log-probabilities of the likeliest tokens
    same: list[bool] = field(default_factory=list)  # whether both think the same token likeliest

    def add(self, expected: torch.Tensor, found: dict[int, float]) -> None:
        """One position: every log-probability by the reference, the likeliest ones, in order, by the other."""
        tokens = torch.tensor(list(found))
        ours, other = expected[tokens], torch.tensor(list(found.values()), dtype=torch.float64)
        rest, other_rest = ((1 - part.exp().sum()).clamp_min(_FLOAT32_STEP) for part in (ours, other))
        self.kl.append(float((ours.exp() * (ours - other)).sum() + rest * (rest / other_rest).log()))
        self.differences.append(float((ours - other).abs().max()))
        self.same.append(int(expected.argmax()) == int(tokens[0]))

    def cells(self) -> list[str]:
        return [
            str(len(self.kl)), f"{max(self.differences):.2g}", f"{np.quantile(self.differences, 0.95):.2g}",
            f"{np.mean(self.kl):.2g}", f"{100 * np.mean(self.same):.2f} %",
        ]  # fmt: skip


def different_weights(gguf: Path, model: Path) -> int:
    """How many weights of ``gguf`` are not exactly those of the folder ``model``."""
    different = 0
    described = describe(read_json(model / "config.json"))
    with GgufFile(gguf) as file, Checkpoint(model) as checkpoint:
        for name in described.tensor_shapes:
            if is_norm(name):  # may be stored as 1 + w
                continue
            start = 0
            for stored in tensor_rows(file, described.gguf_name(name), described.layout(name)):
                different += int((stored != checkpoint.rows(name, start, start + len(stored))).sum())
                start += len(stored)
    return different


class GgmlGelu(nn.Module):
    """GELU's tanh form as ggml's CPU kernels have it: a table between float16 values, exact beyond 10."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x.abs() < 10, table, x.relu())


def reference(model: Path, *, exact: bool) -> nn.Module:
    """The model in float32; ``exact``: with llama.cpp's GELU."""
    loaded = load_model(model, bits=32).eval()
    if exact:
        for layer in loaded.model.layers:
            layer.mlp.act_fn = GgmlGelu()
    return loaded


def logprobs(model: nn.Module, ids: list[int], answer: list[int]) -> torch.Tensor:
    """Of every token, at each position of the answer to the prompt ``ids``."""
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *answer[:-1]]])).logits[0, len(ids) - 1 :]
    return logits.double().log_softmax(-1)


def distance(gguf: Path, model: Path, commands: Sequence[str], *, exact: bool) -> tuple[Distance, Distance]:
    """Of llama.cpp from PyTorch and, if ``exact``, of PyTorch in float64 from itself.

    Args:
        exact: with a float32 cache in llama.cpp, against a PyTorch model with llama.cpp's GELU.
    """
    tokenizer, single = load_tokenizer(model), reference(model, exact=exact)
    double = reference(model, exact=True).double() if exact else None
    file, itself = Distance(), Distance()
    with LlamaServer(
        gguf, prompt=_PROMPT, threads=usable_cores(), slots=1, context=1024, parameters=_FLOAT32_CACHE if exact else {}
    ) as server:
        for command in commands:
            ids = encode_prompt(tokenizer, _PROMPT, command)
            found = server.answer_logprobs(ids, _LIKELIEST, max_tokens=_MAX_TOKENS)
            answer = [next(iter(position)) for position in found]
            expected = logprobs(single, ids, answer)
            for position, theirs in zip(expected, found, strict=True):
                file.add(position, theirs)
            if double is None:
                continue
            for position, other in zip(expected, logprobs(double, ids, answer), strict=True):
                likeliest = other.topk(_LIKELIEST)
                itself.add(position, dict(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)))
    return file, itself


def main(options: argparse.Namespace) -> None:
    records, _ = read_jsonl(options.data)
    commands = [record.command for record in records[: options.rows]]
    weights, embedding = QuantType(options.weights), QuantType(options.embedding)
    table = Table(title=f"export of {options.model}, {len(commands)} answers", title_justify="left")
    table.add_column("")
    for column in ("weights that differ", "positions", "max |Δ log p|", "95 % below", "mean KL, nats", "same top-1"):
        table.add_column(column, justify="right")
    with TemporaryDirectory() as folder:
        for name, types in (("float32 twin", (QuantType.F32, QuantType.F32)), (weights, (weights, embedding))):
            path = Path(folder) / f"{types[0]}.gguf"
            export_gguf(
                options.model, path, weights=types[0], embedding=types[1], provenance={},
                chat_template=chat_template(_PROMPT),
            )  # fmt: skip
            exact = types[0] is QuantType.F32
            file, itself = distance(path, options.model, commands, exact=exact)
            if exact:
                table.add_row("PyTorch in float64", "", *itself.cells())
            table.add_row(str(name), str(different_weights(path, options.model)), *file.cells())
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=SAMPLE_DIR / "test.jsonl")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--weights", default=QuantType.Q4_0, choices=[*QuantType])
    parser.add_argument("--embedding", default=QuantType.Q8_0, choices=[*QuantType])
    main(parser.parse_args())
