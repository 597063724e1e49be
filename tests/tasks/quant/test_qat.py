"""Quantisation-aware training on the tiny real model: what the forward pass sees, what is left, what ships."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from deployment.prompts.prompt import Prompt, chat_template
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import export_gguf
from tasks.quant import qat
from tasks.quant.codecs import simulate_quantize
from tasks.quant.types import QuantType
from tasks.training.models import add_lora, load_model, save_adapter_and_merged, save_full
from tasks.training.recipe import LoraRecipe

EMBEDDING = "model.embed_tokens.weight"
LINEARS = 14  # seven in each of the two layers
INPUT_IDS = torch.arange(6, 30).reshape(2, 12)


def types_of(model_dir: Path, weights: QuantType, embedding: QuantType) -> dict[str, QuantType]:
    model = describe(read_json(model_dir / "config.json"))
    return {name: plan.type for name, plan in plan_types(model, weights=weights, embedding=embedding).items()}


@pytest.fixture
def types(tiny_model_dir: Path) -> dict[str, QuantType]:
    return types_of(tiny_model_dir, QuantType.Q4_0, QuantType.Q8_0)


@pytest.fixture
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return load_model(tiny_model_dir, bits=32)


@pytest.fixture
def adapted(model: PreTrainedModel) -> nn.Module:
    """A LoRA model whose adapter says something: as made, B is zero."""
    peft_model = add_lora(model, LoraRecipe(r=4, alpha=8, dropout=0.0))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    return peft_model


def logits(model: nn.Module) -> Tensor:
    with qat.quantised_once():
        return model(input_ids=INPUT_IDS).logits


def grid_copy(model_dir: Path, types: dict[str, QuantType]) -> PreTrainedModel:
    """The model of ``model_dir`` with every weight replaced by what the file will hold."""
    copy = load_model(model_dir, bits=32)
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(simulate_quantize(parameter, types[name]))
    return copy


def train_a_little(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        logits(model).log_softmax(-1)[..., 7].mean().neg().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_every_trained_weight_in_blocks_is_covered(model: PreTrainedModel, types: dict[str, QuantType]) -> None:
    assert qat.attach(model, types) == LINEARS + 1
    covered = {name for name, module in model.named_modules() if parametrize.is_parametrized(module)}
    assert "model.embed_tokens" in covered and "model.layers.1.mlp.down_proj" in covered
    assert not [name for name in covered if "norm" in name]


def test_a_weight_in_a_float_type_is_left_alone(model: PreTrainedModel, tiny_model_dir: Path) -> None:
    assert qat.attach(model, types_of(tiny_model_dir, QuantType.F16, QuantType.F32)) == 0
    assert qat.attach(model, types_of(tiny_model_dir, QuantType.BF16, QuantType.Q8_0)) == 1


def test_a_frozen_weight_is_put_on_its_grid_once_and_for_good(
    model: PreTrainedModel, types: dict[str, QuantType]
) -> None:
    model.get_input_embeddings().requires_grad_(False)
    frozen = model.get_submodule("model.layers.0.self_attn.q_proj").requires_grad_(False)
    expected = simulate_quantize(model.get_input_embeddings().weight, QuantType.Q8_0)
    assert qat.attach(model, types) == LINEARS - 1
    assert not parametrize.is_parametrized(frozen)
    assert torch.equal(frozen.weight, simulate_quantize(frozen.weight, QuantType.Q4_0))
    qat.settle(model)
    assert torch.equal(model.get_input_embeddings().weight, expected)


def test_quantisers_that_are_switched_off_let_weights_through(
    model: PreTrainedModel, types: dict[str, QuantType]
) -> None:
    plain = logits(model)
    qat.attach(model, types)
    qat.enable(model, False)
    assert torch.equal(logits(model), plain)
    qat.enable(model, True)
    assert not torch.equal(logits(model), plain)


@pytest.mark.parametrize("weights", [quant for quant in QuantType if quant.is_block_type])
def test_the_forward_pass_sees_the_values_of_the_file(tiny_model_dir: Path, weights: QuantType) -> None:
    types = types_of(tiny_model_dir, weights, QuantType.Q8_0)
    model = load_model(tiny_model_dir, bits=32)
    plain = logits(model)
    model.get_output_embeddings().weight.requires_grad_(False)  # the head asks for the weight behind the quantiser
    qat.attach(model, types)
    with torch.no_grad():
        expected = grid_copy(tiny_model_dir, types)(input_ids=INPUT_IDS).logits
    assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, plain)


def test_the_optimizer_keeps_full_precision_weights(model: PreTrainedModel, types: dict[str, QuantType]) -> None:
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    before = layer.weight.detach().clone()
    qat.attach(model, types)
    master = layer.parametrizations.weight.original
    assert torch.equal(master, before)
    assert torch.equal(layer.weight, simulate_quantize(before, QuantType.Q4_0))
    train_a_little(model, steps=1)
    assert not torch.equal(master, simulate_quantize(master, QuantType.Q4_0))


def test_settled_weights_are_on_the_grid_of_the_file(model: PreTrainedModel, types: dict[str, QuantType]) -> None:
    names = list(model.state_dict())
    qat.attach(model, types)
    train_a_little(model)
    masters = {
        name: module.parametrizations.weight.original.detach().clone()
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
    }
    qat.settle(model)
    assert list(model.state_dict()) == names
    assert not [module for module in model.modules() if parametrize.is_parametrized(module)]
    for name, master in masters.items():
        quant = gguf.GGMLQuantizationType[types[f"{name}.weight"].name]
        in_the_file = quants.dequantize(quants.quantize(master.numpy(), quant), quant)
        np.testing.assert_array_equal(model.get_submodule(name).weight.detach().numpy(), in_the_file)


def test_a_tied_embedding_stays_tied(model: PreTrainedModel, types: dict[str, QuantType]) -> None:
    qat.attach(model, types)
    train_a_little(model)
    qat.settle(model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_within_the_block_a_weight_is_quantised_once(model: PreTrainedModel, types: dict[str, QuantType]) -> None:
    qat.attach(model, types)
    embedding = model.get_input_embeddings()
    with qat.quantised_once():
        first = embedding.weight
        assert embedding.weight is first
    assert embedding.weight is not first


def test_an_adapted_weight_is_quantised_once_and_only_there(adapted: nn.Module, types: dict[str, QuantType]) -> None:
    assert qat.attach(adapted, types) == LINEARS
    covered = [module for module in adapted.modules() if parametrize.is_parametrized(module)]
    assert [len(module.parametrizations.weight) for module in covered] == [1] * LINEARS


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_an_adapted_layer_sees_the_merged_weight_on_its_grid(
    adapted: nn.Module, types: dict[str, QuantType], autocast: bool
) -> None:
    layer = adapted.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    merged = layer.base_layer.weight + layer.get_delta_weight("default")
    qat.attach(adapted, types)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(layer.base_layer.weight, simulate_quantize(merged, QuantType.Q4_0))
        x = torch.randn(3, 64)
        assert torch.equal(layer(x), nn.functional.linear(x, simulate_quantize(merged, QuantType.Q4_0)))


def test_the_adapter_learns_through_the_quantiser_and_the_base_does_not(
    adapted: nn.Module, types: dict[str, QuantType]
) -> None:
    qat.attach(adapted, types)
    logits(adapted).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in adapted.named_parameters()}
    for name, gradient in gradients.items():
        if "lora_" in name:
            assert gradient is not None and gradient.abs().max() > 0, name
        else:
            assert gradient is None, name


def test_settling_an_adapted_model_restores_base_and_adapter(adapted: nn.Module, types: dict[str, QuantType]) -> None:
    types = types | {EMBEDDING: QuantType.F32}  # frozen, it would go on its grid for good
    state = {name: value.clone() for name, value in adapted.state_dict().items()}
    with torch.no_grad():
        before = logits(adapted)
        qat.attach(adapted, types)
        quantised = logits(adapted)
        qat.settle(adapted)
        after = logits(adapted)
    assert torch.equal(after, before)
    assert not torch.equal(quantised, before)
    assert adapted.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in adapted.state_dict().items())


def test_a_merged_adapter_is_quantised_to_what_training_saw(
    adapted: nn.Module, types: dict[str, QuantType], tiny_model_dir: Path, tmp_path: Path
) -> None:
    qat.attach(adapted, types)
    train_a_little(adapted)
    seen = {
        name.removeprefix("base_model.model.").replace(".base_layer", ".weight"): module.weight.detach().clone()
        for name, module in adapted.named_modules()
        if parametrize.is_parametrized(module)
    }
    assert len(seen) == LINEARS
    qat.settle(adapted)
    save_adapter_and_merged(adapted, tiny_model_dir, tmp_path)
    merged = load_file(tmp_path / "model.safetensors")
    for name, values in seen.items():
        assert torch.equal(simulate_quantize(merged[name], QuantType.Q4_0), values), name
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize("weights", [QuantType.Q4_0, QuantType.Q5_1, QuantType.Q8_0])
def test_the_exported_file_holds_the_values_of_training(
    tiny_model_dir: Path, tmp_path: Path, weights: QuantType
) -> None:
    model = load_model(tiny_model_dir, bits=32)
    qat.attach(model, types_of(tiny_model_dir, weights, QuantType.Q8_0))
    train_a_little(model)
    seen = {
        name: module.weight.detach().clone()
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    }
    qat.settle(model)
    save_full(model, tiny_model_dir, tmp_path / "model")
    export_gguf(
        tmp_path / "model", tmp_path / "model.gguf", weights=weights, embedding=QuantType.Q8_0,
        chat_template=chat_template(Prompt()),
    )  # fmt: skip
    in_the_file = {
        tensor.name: quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors
    }
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert len(in_the_file) == len(stored)
    described = describe(read_json(tiny_model_dir / "config.json"))
    for name, weight in stored.items():
        expected = described.layout(name).stored(weight.numpy())
        np.testing.assert_array_equal(in_the_file[described.gguf_name(name)], expected, err_msg=name)
        assert torch.equal(weight, seen[name.removesuffix(".weight")])
