"""An adapter that PEFT itself has saved is measured as PEFT itself merges it."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from tasks.forensics.statistics import tensor_statistics


@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_of_peft_is_measured_as_merge_and_unload_gives_it(tmp_path, use_rslora):
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=False,
    )
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "base")
    settings = LoraConfig(
        r=4,
        lora_alpha=16,
        use_rslora=use_rslora,
        target_modules=["q_proj", "down_proj", "embed_tokens"],
        modules_to_save=["post_feedforward_layernorm"],
        task_type="CAUSAL_LM",
    )
    base = Gemma3ForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, settings)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                weights.normal_()
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)

    loaded = PeftModel.from_pretrained(Gemma3ForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    merged = loaded.merge_and_unload().state_dict()
    measured = {tensor.name: tensor for tensor in tensor_statistics(tmp_path / "adapter").tensors}
    assert measured.keys() == merged.keys()
    for name, tensor in measured.items():
        assert tensor.max_abs == pytest.approx(merged[name].abs().max().item(), rel=1e-5)
        assert tensor.mean_abs == pytest.approx(merged[name].abs().mean().item(), rel=1e-5)
