"""Quantisation-aware training: the forward pass sees every weight as the file will hold it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.quant.codecs import fake_quantize, simulate_quantize
from tasks.quant.types import QuantType

logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 8192  # of a frozen embedding of 262,144 rows, so that no second one is needed
_BYPASS = "_disable_adapters"  # PEFT's own switch: the layer answers with its base layer alone


class FakeQuantize(nn.Module):
    """Parametrisation that shows a weight on the grid of ``quant``; the optimizer keeps the full-precision weight."""

    def __init__(self, quant: QuantType) -> None:
        super().__init__()
        self.quant = quant
        self.enabled = True

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.quant) if self.enabled else weight


class FakeQuantizeAdapted(FakeQuantize):
    """The same for a layer with a LoRA adapter: the quantiser sees base + B A, as the merged file will."""

    def __init__(self, quant: QuantType, layer: nn.Module) -> None:
        super().__init__(quant)
        self._layer = [layer]  # in a list, or the layer would become its own child

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # the merge is not rounded to bf16 either
            delta = self._layer[0].get_delta_weight("default")  # pyright: ignore[reportCallIssue]
        return super().forward(weight + delta)


def attach(model: nn.Module, types: Mapping[str, QuantType]) -> int:
    """Put a fake quantiser on every trained weight that ``types`` (weight name -> type) stores in blocks.

    A frozen weight is put on its grid at once and for good, as closely as its own float type can say. Returns how many
    weights are quantised as they are trained.
    """
    covered = 0
    for name, module in list(model.named_modules()):
        quant = types.get(_weight_name(name))
        if quant is None or not quant.is_block_type:
            continue
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            base = module.base_layer
            assert isinstance(base, nn.Module)  # noqa: S101  narrows the type of a module attribute
            parametrize.register_parametrization(base, "weight", FakeQuantizeAdapted(quant, module), unsafe=True)
            setattr(module, _BYPASS, True)  # the adapter acts inside the parametrisation
            covered += 1
        elif not isinstance(module, nn.Linear | nn.Embedding):
            continue
        elif not module.weight.requires_grad:
            _put_on_grid(module.weight, quant)
        else:
            parametrize.register_parametrization(module, "weight", FakeQuantize(quant), unsafe=True)
            covered += 1
    logger.info("%d weights are trained on the grid of their file type", covered)
    return covered


@torch.no_grad()
def _put_on_grid(weight: Tensor, quant: QuantType) -> None:
    for rows in weight.split(_ROWS_AT_ONCE):
        rows.copy_(simulate_quantize(rows, quant))


def enable(model: nn.Module, enabled: bool) -> None:
    """Let the fake quantisers of ``model`` act, or let weights through as they are."""
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.enabled = enabled


def _weight_name(module_name: str) -> str:
    return module_name.removeprefix("base_model.model.") + ".weight"


def settle(model: nn.Module) -> None:
    """Take the fake quantisers off. Full weights stay on their grid; adapted layers keep base and adapter apart."""
    enable(model, True)
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module, "weight"):
            continue
        stages = module.parametrizations
        assert isinstance(stages, nn.ModuleDict)  # noqa: S101  narrows the type of a module attribute
        adapted = isinstance(stages["weight"][0], FakeQuantizeAdapted)  # pyright: ignore[reportIndexIssue]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=not adapted)
    for module in model.modules():
        if getattr(module, _BYPASS, False):
            setattr(module, _BYPASS, False)


@contextmanager
def quantised_once() -> Iterator[None]:
    """Within the block a weight is quantised at its first use and kept, as for an embedding that is also the head."""
    with parametrize.cached():
        yield
