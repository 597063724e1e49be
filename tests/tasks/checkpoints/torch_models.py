"""What a model answers, and adapters as PEFT saves them."""

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

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
