"""PEFT adapters as GGUF: the bytes by gguf-py, the function by llama.cpp over the base's own file."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from other_models import PROMPT, byte_level_tokenizer, save_model, save_tokenizer, shape
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import UsageError
from tasks.gguf.adapter import export_adapter, plan_adapter
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.verification.distributions import distribution, hf_distribution, kl

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KL_BOUND = {QuantType.F32: 0.001, QuantType.F16: 0.001, QuantType.BF16: 0.02, QuantType.Q8_0: 0.05}  # as in verify
GEMMA = Prompt()
COMMANDS = ["Check pump P-101 for a leak", "weather tomorrow?", "Log 4.2 bar on CP-17."]


def make_adapter(base: Path, out: Path, *, rank: int = 8, **settings: object) -> Path:
    """A LoRA of random matrices that change the answers, as PEFT saves it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = {"r": rank, "lora_alpha": 16, "target_modules": LAYERS, "task_type": "CAUSAL_LM"} | settings
    adapted = get_peft_model(model, LoraConfig(**config))
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.normal_(0, 0.2)
    adapted.save_pretrained(out, save_embedding_layers=False)
    return out


@pytest.fixture(scope="module")
def adapter(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_gemma, tmp_path_factory.mktemp("adapter") / "plant")


@pytest.fixture(scope="module")
def base_gguf(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_gguf(tiny_gemma, tmp_path_factory.mktemp("base") / "base.gguf", weights=QuantType.F32).path


def _changed(adapter: Path, target: Path, **settings: object) -> Path:
    folder = Path(shutil.copytree(adapter, target / "changed"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def _divergences(
    base: Path, adapter: Path, base_gguf: Path, adapter_gguf: Path, prompt: Prompt = GEMMA
) -> tuple[float, float]:
    """The largest KL of llama.cpp with the adapter to PEFT, and the smallest of the bare base to PEFT."""
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with LlamaServer(base_gguf, prompt=prompt, slots=1, context=256, adapter=adapter_gguf) as server:
        ids = [server.tokenize_prompt(command) for command in COMMANDS]
        found = [distribution(server.next_token_logprobs(item)) for item in ids]
    before = [hf_distribution(bare, item) for item in ids]
    peft = PeftModel.from_pretrained(bare, adapter).eval()
    expected = [hf_distribution(peft, item) for item in ids]
    return max(map(kl, expected, found)), min(map(kl, expected, before))


@pytest.mark.parametrize("weights", list(KL_BOUND))
def test_llama_cpp_computes_what_peft_does(
    tiny_gemma: Path, adapter: Path, base_gguf: Path, tmp_path: Path, weights: QuantType
) -> None:
    out = export_adapter(adapter, tmp_path / "adapter.gguf", weights=weights).path
    error, effect = _divergences(tiny_gemma, adapter, base_gguf, out)
    assert error < KL_BOUND[weights]
    assert effect > 0.05  # far above the bounds: an adapter that did nothing would be seen


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"rank_pattern": {"down_proj": 4, "q_proj": 16}}], ids=["rslora", "ranks"]
)
def test_other_scales_reach_llama_cpp(
    tiny_gemma: Path, base_gguf: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    adapter = make_adapter(tiny_gemma, tmp_path / "adapter", **settings)
    out = export_adapter(adapter, tmp_path / "adapter.gguf", weights=QuantType.F32).path
    error, effect = _divergences(tiny_gemma, adapter, base_gguf, out)
    assert error < KL_BOUND[QuantType.F32] < effect


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        (LlamaConfig(**shape(tie_word_embeddings=True)), LAYERS),
        (Qwen2Config(**shape()), LAYERS),
        (Qwen3Config(**shape(head_dim=32)), LAYERS),
        (Phi3Config(**shape()), ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        (LlamaConfig(**shape()), ["q_proj", "lm_head"]),
    ],
    ids=["llama", "qwen2", "qwen3", "phi3", "untied output"],
)
def test_other_architectures_are_adapted_as_peft_does(
    tmp_path: Path, config: PreTrainedConfig, modules: list[str]
) -> None:
    """Llama's queries and keys have other rows in a file, and so have the B matrices that are added to them."""
    base = tmp_path / "base"
    save_model(config, base)
    save_tokenizer(byte_level_tokenizer("gpt-2"), base)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=modules)
    base_gguf = export_gguf(base, tmp_path / "base.gguf", weights=QuantType.F32).path
    out = export_adapter(adapter, tmp_path / "adapter.gguf", weights=QuantType.F32).path
    error, effect = _divergences(base, adapter, base_gguf, out, PROMPT)
    assert error < KL_BOUND[QuantType.F32] < effect


@pytest.mark.parametrize("rank", [8, 32])
@pytest.mark.parametrize("weights", list(KL_BOUND))
def test_names_order_and_bytes_are_upstreams(tiny_gemma: Path, tmp_path: Path, weights: QuantType, rank: int) -> None:
    adapter = make_adapter(tiny_gemma, tmp_path / "plant", rank=rank)
    report = export_adapter(adapter, tmp_path / "adapter.gguf", weights=weights)
    reader = gguf.GGUFReader(report.path)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(keys.items()) == [
        ("general.architecture", "gemma3"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.name", "plant"),
        ("adapter.lora.alpha", 16.0),
        ("general.quantization_version", 2),
    ]
    assert [tensor.name for tensor in reader.tensors[:6]] == [
        *("blk.0.ffn_down.weight.lora_a", "blk.0.ffn_down.weight.lora_b"),
        *("blk.0.ffn_gate.weight.lora_a", "blk.0.ffn_gate.weight.lora_b"),
        *("blk.0.ffn_up.weight.lora_a", "blk.0.ffn_up.weight.lora_b"),
    ]
    own = load_file(adapter / "adapter_model.safetensors")
    assert report.tensors == len(reader.tensors) == len(own) == 7 * 2 * len(LAYERS)
    for tensor, name in zip(reader.tensors, own, strict=True):
        fits = weights is not QuantType.Q8_0 or own[name].shape[-1] % 32 == 0
        type_ = GGMLQuantizationType[weights.name] if fits else GGMLQuantizationType.F16
        assert (tensor.tensor_type, list(reversed(tensor.shape))) == (type_, list(own[name].shape))
        np.testing.assert_array_equal(tensor.data.view(np.uint8), gguf.quants.quantize(own[name], type_).view(np.uint8))


def test_the_plan_predicts_the_file_to_the_byte(adapter: Path, tmp_path: Path) -> None:
    plan = plan_adapter(adapter, weights=QuantType.Q8_0)
    assert plan.file_bytes == export_adapter(adapter, tmp_path / "out.gguf", weights=QuantType.Q8_0).bytes


def test_a_base_that_is_not_here_must_be_named(tiny_gemma: Path, adapter: Path, tmp_path: Path) -> None:
    folder = _changed(adapter, tmp_path, base_model_name_or_path="google/gemma-3-270m")
    with pytest.raises(UsageError, match=r"'google/gemma-3-270m', which is no Hugging Face folder here; .* --base"):
        export_adapter(folder, tmp_path / "out.gguf", weights=QuantType.F32)
    assert export_adapter(folder, tmp_path / "out.gguf", weights=QuantType.F32, base=tiny_gemma).tensors == 98


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"use_dora": True}, "use_dora = True, which llama.cpp's adapters cannot say"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "changes more than the adapted weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes more than the adapted weights"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"lora_alpha": None}, "lora_alpha = None"),
    ],
)
def test_what_an_adapter_file_cannot_say_is_refused(
    adapter: Path, tmp_path: Path, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        export_adapter(_changed(adapter, tmp_path, **settings), tmp_path / "out.gguf", weights=QuantType.F32)
    assert not (tmp_path / "out.gguf").exists()


def test_ranks_that_differ_cannot_be_rank_stabilised(tiny_gemma: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_gemma, tmp_path / "adapter", use_rslora=True, rank_pattern={"q_proj": 4})
    with pytest.raises(UsageError, match="rank-stabilised with several ranks"):
        export_adapter(adapter, tmp_path / "out.gguf", weights=QuantType.F32)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("base_model.model.model.norm.weight", np.ones(64), "not a LoRA matrix of a linear layer"),
        ("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", np.ones((8, 64)), "not a LoRA matrix"),
        ("base_model.model.model.embed_tokens.lora_A.weight", np.ones((8, 64)), "adapt a tied output"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", np.ones((8, 32)), "is that the adapter's base"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", np.full((96, 8), np.nan), "NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    adapter: Path, tmp_path: Path, name: str, values: np.ndarray, reason: str
) -> None:
    folder = _changed(adapter, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {name: values.astype(np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=reason):
        export_adapter(folder, tmp_path / "out.gguf", weights=QuantType.F32)
    assert not (tmp_path / "out.gguf").exists()


def test_a_type_that_upstream_does_not_write_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"an adapter can be f32, f16, bf16, q8_0, not .*q4_0"):
        export_adapter(adapter, tmp_path / "out.gguf", weights=QuantType.Q4_0)


def test_only_safetensors_are_read(adapter: Path, tmp_path: Path) -> None:
    folder = _changed(adapter, tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"has no adapter_model\.safetensors, only 'adapter_model\.bin'"):
        export_adapter(folder, tmp_path / "out.gguf", weights=QuantType.F32)


def test_llama_cpp_refuses_an_adapter_of_another_base(base_gguf: Path, adapter: Path, tmp_path: Path) -> None:
    out = export_adapter(adapter, tmp_path / "out.gguf", weights=QuantType.F32).path
    with GgufFile(out) as file:
        assert file.metadata["general.type"] == "adapter"
    content = out.read_bytes().replace(b"blk.1.", b"blk.7.")
    out.write_bytes(content)
    with (
        pytest.raises(UsageError, match=r"llama\.cpp cannot load"),
        LlamaServer(base_gguf, prompt=Prompt(), slots=1, context=256, adapter=out),
    ):
        pass
