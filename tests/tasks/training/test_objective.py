"""The loss of a batch against the model's own logits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_samples import LORA, PROMPT

from registry.records import LabelSet, Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.distill.kd import kd_loss
from tasks.quant import qat
from tasks.quant.types import QuantType
from tasks.training.examples import IGNORE_INDEX, Batch, build_examples, collate
from tasks.training.models import add_lora, load_model
from tasks.training.objective import Objective
from tasks.training.recipe import LoraRecipe

MIX = {"temperature": 2.0, "alpha_kd": 0.7, "alpha_ce": 0.3}


@pytest.fixture(scope="module")
def batch(tiny_model_dir: Path, records: list[Record], labels: LabelSet) -> Batch:
    examples = build_examples(records[:6], load_tokenizer(tiny_model_dir), PROMPT, labels, max_tokens=512)
    return collate(examples, pad_id=0)


def response_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """All logits of a plain forward pass, at the response positions, and what they should predict."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    kept = batch.labels != IGNORE_INDEX
    return logits[kept], batch.labels[kept]


def other_model(folder: Path) -> nn.Module:
    """A model of the same shape with other weights."""
    model = load_model(folder, bits=32)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval().requires_grad_(False)


def test_without_a_teacher_it_is_the_cross_entropy_of_the_answers(tiny_model_dir: Path, batch: Batch) -> None:
    model = load_model(tiny_model_dir, bits=32)
    logits, targets = response_logits(model, batch)
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(Objective(model, head_dtype=torch.float32)(batch), expected)


@pytest.mark.parametrize("quantised", [False, True], ids=["full precision", "qat"])
def test_the_gradients_are_those_of_a_plain_forward_pass(tiny_model_dir: Path, batch: Batch, quantised: bool) -> None:
    """Also for the embedding, which is both ends of the model."""
    models = [load_model(tiny_model_dir, bits=32) for _ in range(2)]
    types = {name: QuantType.Q4_0 for name, _ in models[0].named_parameters() if "norm" not in name}
    if quantised:
        for model in models:
            qat.attach(model, types)
    Objective(models[0], head_dtype=torch.float32)(batch).backward()
    hidden = models[1].base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    kept = batch.labels != IGNORE_INDEX
    logits = hidden[kept] @ models[1].get_input_embeddings().weight.T
    functional.cross_entropy(logits, batch.labels[kept], reduction="sum").backward()
    for (name, found), expected in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert found.grad is not None and expected.grad is not None, name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_with_a_teacher_it_is_the_mixed_loss(tiny_model_dir: Path, batch: Batch) -> None:
    student, teacher = load_model(tiny_model_dir, bits=32), other_model(tiny_model_dir)
    student_logits, targets = response_logits(student, batch)
    teacher_logits, _ = response_logits(teacher, batch)
    expected = kd_loss(student_logits, teacher_logits, targets, **MIX)
    objective = Objective(student, head_dtype=torch.float32, teacher=teacher, **MIX)
    torch.testing.assert_close(objective(batch), expected, rtol=1e-4, atol=1e-4)


def test_validation_is_plain_cross_entropy_whatever_the_mix(tiny_model_dir: Path, batch: Batch) -> None:
    student, teacher = load_model(tiny_model_dir, bits=32), other_model(tiny_model_dir)
    plain = Objective(student, head_dtype=torch.float32)(batch)
    objective = Objective(student, head_dtype=torch.float32, teacher=teacher, **MIX)
    torch.testing.assert_close(objective.eval()(batch), plain)
    assert not torch.isclose(objective.train()(batch), plain)


def test_the_teacher_is_no_part_of_what_is_trained(tiny_model_dir: Path, batch: Batch) -> None:
    student, teacher = load_model(tiny_model_dir, bits=32), other_model(tiny_model_dir)
    objective = Objective(student, head_dtype=torch.float32, teacher=teacher, **MIX)
    assert {id(parameter) for parameter in objective.parameters()} == {id(p) for p in student.parameters()}
    objective.train()(batch).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training


def test_an_adapted_model_costs_what_its_base_does_before_training(tiny_model_dir: Path, batch: Batch) -> None:
    plain = Objective(load_model(tiny_model_dir, bits=32), head_dtype=torch.float32)(batch)
    adapted = add_lora(load_model(tiny_model_dir, bits=32), LoraRecipe.model_validate(LORA))
    torch.testing.assert_close(Objective(adapted, head_dtype=torch.float32).eval()(batch), plain)


def test_a_prompt_token_costs_nothing(tiny_model_dir: Path, batch: Batch) -> None:
    objective = Objective(load_model(tiny_model_dir, bits=32), head_dtype=torch.float32)
    hidden = objective.model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert hidden.last_hidden_state.shape[:2] == batch.labels.shape
    fewer = batch._replace(labels=torch.where(batch.labels == batch.labels.max(), IGNORE_INDEX, batch.labels))
    assert objective(fewer) < objective(batch)
