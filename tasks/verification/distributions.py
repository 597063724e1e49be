"""Next-token distributions of llama.cpp beside those of PyTorch.

Two comparisons: with the folder's float32 weights (what quantisation costs) and with the file's own weights,
dequantised (whether llama.cpp computes the same function).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING, OUTPUT, Model
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import tensor_rows
from tasks.verification.checks import Check, at_most

_KL_BOUND = {  # nats per next token, against the folder's float32 weights
    GGMLQuantizationType.F32: 0.001,
    GGMLQuantizationType.F16: 0.001,
    GGMLQuantizationType.BF16: 0.02,
    GGMLQuantizationType.Q8_0: 0.05,
}
_KL_BOUND_BELOW_8_BITS = 4.0  # a wrong file is worse; what a coarse type costs is for the evaluation to say
_RUNTIME_KL_BOUND = 0.05  # llama.cpp rounds activations to 8 bits for block types


def next_token_checks(
    gguf: Path, model_dir: Path, described: Model, ids: Sequence[list[int]], found: Sequence[np.ndarray]
) -> Iterator[Check]:
    """``found``: llama.cpp's log-probabilities by token id after each of the prompts ``ids``."""
    if not ids:
        return
    from tasks.checkpoints.loading import load_model  # torch takes seconds to import

    model = load_model(model_dir, device="cpu")
    source = [hf_distribution(model, item) for item in ids]
    with GgufFile(gguf) as file:
        _load_from_gguf(model, file, described)
        types = {tensor.type for tensor in file.tensors.values()}
    twin = [hf_distribution(model, item) for item in ids]
    bound = max(_KL_BOUND.get(type_, _KL_BOUND_BELOW_8_BITS) for type_ in types)
    yield at_most("KL to the float32 model", _worst(map(kl, source, found)), bound)
    yield at_most("KL to the file's weights in PyTorch", _worst(map(kl, twin, found)), _RUNTIME_KL_BOUND)
    likely = _worst(
        np.abs(expected - actual)[expected > np.log(0.01)].max(initial=0.0)
        for expected, actual in zip(twin, found, strict=True)
    )
    yield at_most("log-probability difference of likely tokens", likely, 0.5)


def _worst(values: Iterable[float]) -> float:
    """The largest; NaN is larger than any."""
    return float(np.max(list(values)))


def _load_from_gguf(model: Any, file: GgufFile, described: Model) -> None:
    """Give ``model`` the weights that lie in ``file``."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == OUTPUT and described.tied:
                name = EMBEDDING
            start = 0
            rows = parameter.view(-1, parameter.shape[-1])
            for values in tensor_rows(file, described.gguf_name(name), described.layout(name)):
                rows[start : start + len(values)] = torch.from_numpy(values.copy())
                start += len(values)


def hf_distribution(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


def distribution(logprobs: dict[int, float]) -> np.ndarray:
    """Log-probabilities by token id."""
    values = np.full(max(logprobs) + 1, -np.inf)
    values[list(logprobs)] = list(logprobs.values())
    return values


def kl(expected: np.ndarray, found: np.ndarray) -> float:
    """KL(expected || found) in nats, over the tokens that have a probability at all."""
    if expected.shape != found.shape:
        raise UsageError(f"the file has {len(found)} tokens where the folder's model has {len(expected)}.")
    some = expected > -60  # e^-60: nothing of the sum is lost, and float32 does not underflow
    return float(np.sum(np.exp(expected[some]) * (expected[some] - found[some])))
