"""The tiny real model, an adapter that PEFT made for it, and copies of both to be damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

Copy = Callable[[Path], Path]
IDS = torch.tensor([[2, 4, 70, 71, 72, 150, 300, 5]])


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def make_adapter(base: nn.Module, out: Path, **changes: object) -> Path:
    """A LoRA of random matrices that change the answers, as PEFT saves it."""
    torch.manual_seed(0)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"} | changes
    adapted = get_peft_model(base, LoraConfig(**config))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(out, save_embedding_layers=False)
    return out


@pytest.fixture(scope="session")
def adapter_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two modules in each of the two layers, without a tokenizer of its own."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def copy_of(tmp_path: Path) -> Copy:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name))

    return copy
