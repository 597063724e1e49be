"""What the torch loader makes of models and adapters, against transformers' and PEFT's own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damages import HARMLESS_TO_MODELS, renamed, settings, without
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file
from torch_models import Copy, logits, make_adapter
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from registry.errors import ServiceUnavailable, UsageError
from tasks.checkpoints.adapters import is_target
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_model, load_tokenizer, load_with_adapter
from tasks.checkpoints.source import open_source
from tasks.evaluation import hf_runtime
from tasks.forensics.statistics import tensor_statistics
from tasks.gguf.adapter import export_adapter
from tasks.quant.types import QuantType
from tasks.training.models import save_full


@pytest.fixture(scope="module")
def multimodal_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 that sees, whose text part is the tiny model."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("multimodal") / "model"))
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = Gemma3TextConfig.from_pretrained(tiny_model_dir)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1))
    own = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    model.model.language_model.load_state_dict(
        {name.removeprefix("model."): values for name, values in own.items() if name != "lm_head.weight"}
    )
    model.tie_weights()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def multimodal_adapter_dir(multimodal_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over the whole of it, so that it also adapts what sees."""
    base = AutoModelForImageTextToText.from_pretrained(multimodal_dir)
    return make_adapter(base, tmp_path_factory.mktemp("multimodal") / "adapter", target_modules=["q_proj"])


def test_of_a_multimodal_model_the_text_part_is_loaded(multimodal_dir: Path, tiny_model_dir: Path) -> None:
    assert {name.partition(".")[0] for name in load_file(multimodal_dir / "model.safetensors")} > {"language_model"}
    model = load_model(multimodal_dir)
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert logits(model).equal(logits(load_model(tiny_model_dir)))
    whole = AutoModelForImageTextToText.from_pretrained(multimodal_dir)
    torch.testing.assert_close(logits(model), logits(whole))


def test_a_text_part_is_saved_as_a_model_of_text_alone(
    multimodal_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    load_model(multimodal_dir).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(tiny_model_dir / "model.safetensors").keys()
    assert read_json(tmp_path / "config.json")["model_type"] == "gemma3_text"


def test_half_a_text_part_is_refused_and_half_of_what_sees_is_not_needed(multimodal_dir: Path, copy_of: Copy) -> None:
    folder = copy_of(multimodal_dir)
    without("vision_tower")(folder)
    assert logits(load_model(folder)).equal(logits(load_model(multimodal_dir)))
    with open_source(folder):
        pass
    without("layers.0.mlp.up_proj")(folder)
    for opened in (load_model, lambda path: open_source(path).__enter__()):
        with pytest.raises(UsageError, match=r"lacks model\.layers\.0\.mlp\.up_proj\.weight"):
            opened(folder)


def test_an_adapter_over_a_multimodal_base_is_what_peft_computes(
    multimodal_dir: Path, multimodal_adapter_dir: Path, tmp_path: Path
) -> None:
    names = load_file(multimodal_adapter_dir / "adapter_model.safetensors")
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    base = AutoModelForImageTextToText.from_pretrained(multimodal_dir)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, multimodal_adapter_dir))
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(load_with_adapter(multimodal_adapter_dir)), expected)
    assert export_adapter(multimodal_adapter_dir, tmp_path / "out.gguf", weights=QuantType.F32).tensors == 4
    tensor_statistics(multimodal_adapter_dir)


def test_a_pattern_for_the_names_of_a_multimodal_base_means_the_same_modules(
    multimodal_dir: Path, tmp_path: Path
) -> None:
    base = AutoModelForImageTextToText.from_pretrained(multimodal_dir)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=r".*language_model.*\.(q_proj|down_proj)")
    expected = logits(PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(multimodal_dir), adapter))
    torch.testing.assert_close(logits(load_with_adapter(adapter)), expected)
    without("layers.1.mlp.down_proj", file="adapter_model.safetensors")(adapter)
    with pytest.raises(UsageError, match="1 of the 4 modules"):
        load_with_adapter(adapter)


def test_a_scale_of_its_own_for_a_module_of_a_multimodal_base_counts(multimodal_dir: Path, tmp_path: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(multimodal_dir)
    scale = {"model.language_model.layers.0.self_attn.q_proj": 64}
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], alpha_pattern=scale)
    expected = logits(PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(multimodal_dir), adapter))
    torch.testing.assert_close(logits(load_with_adapter(adapter)), expected)
    settings(alpha_pattern={r"language_model\..*q_proj": 64})(adapter)
    with pytest.raises(UsageError, match="its own scale; merge the adapter"):
        load_with_adapter(adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": r"model\.layers\.\d+\.mlp\..*_proj"},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["layers.0.mlp.up_proj"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 32}},
        {"modules_to_save": ["post_feedforward_layernorm"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": "all-linear"},
        {"bias": "lora_only", "lora_bias": True},
    ],
    ids=str,
)
def test_every_kind_of_lora_is_what_peft_computes(
    tiny_model_dir: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    adapter = make_adapter(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path / "adapter", **changes)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), adapter))
    torch.testing.assert_close(logits(load_with_adapter(adapter)), expected)


@pytest.mark.parametrize("kind", ["ia3", "prompt"])
def test_other_adapters_are_what_peft_computes_or_refused(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = (
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
        if kind == "ia3"
        else PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "ia3" in name:
                parameter.normal_(1, 0.2)
    adapted.save_pretrained(tmp_path)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path))
    assert logits(load_with_adapter(tmp_path)).equal(expected)
    if kind == "ia3":
        without("layers.1.mlp", file="adapter_model.safetensors")(tmp_path)
        with pytest.raises(UsageError, match=r"lacks base_model\..*ia3"):
            load_with_adapter(tmp_path)


_KEYS = [
    f"{begin}layers.{layer}.{part}"
    for begin in ("model.", "model.language_model.")
    for layer in (0, 1, 11)
    for part in ("self_attn.q_proj", "mlp.up_proj", "mlp.experts.3.up_proj")
]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["layers.1.mlp.up_proj"]},
        {"target_modules": ["proj"]},
        {"target_modules": r".*\.1\..*_proj"},
        {"target_modules": ["up_proj"], "layers_to_transform": 1},
        {"target_modules": ["up_proj"], "layers_to_transform": [0, 3]},
        {"target_modules": ["up_proj"], "layers_to_transform": [3], "layers_pattern": ["experts"]},
        {"target_modules": ["up_proj", "q_proj"], "exclude_modules": ["layers.0.mlp.up_proj"]},
        {"target_modules": ["up_proj", "q_proj"], "exclude_modules": r".*layers\.1\..*"},
        {"target_modules": ["up_proj", "q_proj"], "modules_to_save": ["mlp"]},
    ],
    ids=str,
)
def test_targets_are_those_of_peft(config: dict[str, object]) -> None:
    reference = LoraConfig(**config)  # type: ignore[arg-type]
    for key in _KEYS[: len(_KEYS) // 2]:
        assert is_target(config, key) == bool(check_target_module_exists(reference, key)), key


def test_an_output_matrix_of_its_own_is_computed_with_and_saved_whatever_the_config_says(
    tiny_model_dir: Path, copy_of: Copy, tmp_path: Path
) -> None:
    folder = copy_of(tiny_model_dir)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    model = load_model(folder)
    assert not model.config.tie_word_embeddings
    save_full(model, folder, tmp_path / "saved")
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))
    assert not torch.equal(logits(load_model(tiny_model_dir)), logits(model))


@pytest.mark.parametrize("damage", ["module. before the names", "single layers compiled"])
def test_a_model_under_other_names_is_saved_under_its_own(
    tiny_model_dir: Path, copy_of: Copy, tmp_path: Path, damage: str
) -> None:
    folder = copy_of(tiny_model_dir)
    HARMLESS_TO_MODELS[damage](folder)
    load_model(folder).save_pretrained(tmp_path / "out")
    assert (
        load_file(tmp_path / "out" / "model.safetensors").keys()
        == load_file(tiny_model_dir / "model.safetensors").keys()
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_wrapped_names_are_no_hindrance_to_weights_of_few_bits(tiny_model_dir: Path, copy_of: Copy, bits: int) -> None:
    folder = copy_of(tiny_model_dir)
    renamed(lambda name: f"module.{name}")(folder)
    assert logits(load_model(folder, bits=bits)).equal(logits(load_model(tiny_model_dir, bits=bits)))


def test_a_checkpoint_of_bitsandbytes_is_loaded_or_refused_as_a_whole(tiny_model_dir: Path, copy_of: Copy) -> None:
    folder = copy_of(tiny_model_dir)
    quantised = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={"": "cpu"}
    )
    quantised.save_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, dtype=torch.float32)
    assert logits(load_model(folder)).equal(logits(reference))
    without("layers.1.input_layernorm")(folder)
    with pytest.raises(UsageError, match=r"lacks model\.layers\.1\.input_layernorm\.weight"):
        load_model(folder)


def test_an_adapter_without_a_tokenizer_takes_its_bases(adapter_dir: Path, tiny_model_dir: Path, copy_of: Copy) -> None:
    text = "Leak at SG-402."
    _, tokenizer = hf_runtime.load_model(adapter_dir)
    assert tokenizer.encode(text) == load_tokenizer(tiny_model_dir).encode(text)
    own = copy_of(adapter_dir)
    shutil.copy(tiny_model_dir / "tokenizer.json", own)
    shutil.copy(tiny_model_dir / "tokenizer_config.json", own)
    assert load_tokenizer(own).name_or_path == str(own)


def test_an_adapter_whose_base_is_not_here_says_so(adapter_dir: Path, copy_of: Copy) -> None:
    folder = copy_of(adapter_dir)
    for base in ("/nowhere/base", "", None):
        settings(base_model_name_or_path=base)(folder)
        with pytest.raises(UsageError, match="which is no Hugging Face folder here; set base_model_name_or_path"):
            load_with_adapter(folder)
    settings(base_model_name_or_path="google/gemma-3-270m")(folder)
    with pytest.raises(ServiceUnavailable, match="the hub is out of reach and google/gemma-3-270m is not in the"):
        load_with_adapter(folder)


@pytest.mark.parametrize("content", ["", "[1]", '{"model_type": 3}', '{"model_type": "mamba9"}'])
def test_a_strange_config_is_refused_in_a_sentence(tiny_model_dir: Path, copy_of: Copy, content: str) -> None:
    folder = copy_of(tiny_model_dir)
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json|cannot be loaded: ") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_another_architecture_is_loaded_whole_or_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path))
    renamed(lambda name: f"module.{name}")(tmp_path)
    assert logits(load_model(tmp_path)).equal(expected)
    without("h.1.ln_1.weight")(tmp_path)
    with pytest.raises(UsageError, match=r"lacks transformer\.h\.1\.ln_1\.weight"):
        load_model(tmp_path)


def test_a_config_that_names_nothing_for_an_adapter_is_refused(adapter_dir: Path, copy_of: Copy) -> None:
    folder = copy_of(adapter_dir)
    settings(target_modules="(")(folder)
    with pytest.raises(UsageError, match=r"target_modules = '\(', which name no modules"):
        load_with_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(UsageError, match=r"adapter_config\.json is not JSON: it holds no object"):
        load_with_adapter(folder)
