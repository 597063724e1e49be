"""Recipes that cannot work are refused when they are read."""

import pytest
from pydantic import ValidationError
from training_samples import LORA, make_recipe

ADAPTER = {"method": "lora", "lora": LORA, "train_embedding": False}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "lora"}, r'method = "lora" and a \[lora\] table go together'),
        ({"lora": LORA}, r'method = "lora" and a \[lora\] table go together'),
        ({"load_bits": 4}, "weights of 4 bits cannot be fine-tuned in full"),
        (ADAPTER | {"load_bits": 8, "qat": True}, "qat needs weights of 16 or 32 bits"),
        (ADAPTER | {"load_bits": 16}, 'weights of 16 bits compute in bfloat16; set precision = "bf16"'),
        (ADAPTER | {"lora": LORA | {"dropout": 0.1}, "qat": True}, "an adapter has no dropout"),
        (ADAPTER | {"train_embedding": True}, "an adapter leaves the embedding as it is"),
        ({"load_bits": 16, "qat": True, "precision": "bf16"}, "qat of all weights needs load_bits = 32, it is 16"),
        ({"load_bits": 3}, "load_bits"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"momentum": 0.9}, "momentum"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        make_recipe(**changes)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_recipe().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]
