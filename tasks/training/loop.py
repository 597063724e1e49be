"""The one training loop: teacher and student differ in the objective that they pass in."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from tasks.training.checkpoint import load_checkpoint, save_checkpoint
from tasks.training.examples import Batch, Example, epoch_batches
from tasks.training.objective import Objective
from tasks.training.progress import Progress
from tasks.training.recipe import TrainingRecipe

logger = logging.getLogger(__name__)
_BETAS = (0.9, 0.99)  # runs of a few hundred steps are over before a decay of 0.999 has warmed up

MetricSink = Callable[[str, float, int], None]  # name, value, optimizer step


class History(BaseModel):
    """How a run went. Losses are means per response token, ``validation_loss`` after ``validation_steps``."""

    model_config = ConfigDict(frozen=True)

    steps: int
    train_loss: list[float]
    validation_steps: list[int]
    validation_loss: list[float]
    tokens: int
    seconds: float


class _State(BaseModel):
    """Where a run stands after an optimizer step; what a checkpoint remembers."""

    step: int = 0
    train_loss: list[float] = []
    validation_steps: list[int] = []
    validation_loss: list[float] = []
    tokens: int = 0
    seconds: float = 0.0


class TrainingData(NamedTuple):
    """``train`` gives the examples of an epoch, always ``rows`` of them."""

    train: Callable[[int], Sequence[Example]]
    rows: int
    validation: Sequence[Example]
    pad_id: int


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warm-up, then a cosine down to zero (Loshchilov and Hutter 2016, arXiv:1608.03983)."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(
    objective: Objective,
    data: TrainingData,
    recipe: TrainingRecipe,
    *,
    checkpoint: Path,
    on_metric: MetricSink,
    title: str = "training",
) -> History:
    """Train the objective's model in place.

    A run that was cut short goes on from ``checkpoint``, which the caller removes once the result is safe.

    Raises:
        UsageError: the loss is not finite; the message names the step.
    """
    torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
    accelerator = Accelerator(mixed_precision="no")  # its precision is one for the process; a recipe has its own
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=_BETAS, fused=True
    )
    objective, optimizer = accelerator.prepare(objective, optimizer)
    per_epoch = math.ceil(math.ceil(data.rows / recipe.batch_size) / recipe.accumulation)
    total = min(per_epoch * recipe.epochs, recipe.max_steps or per_epoch * recipe.epochs)
    state = _State.model_validate(load_checkpoint(checkpoint, objective, optimizer) or {})
    if state.step:
        logger.info("%s goes on from step %d of %d", title, state.step, total)
    started = time.monotonic() - state.seconds

    with Progress(title, total, done=state.step) as progress:
        for micro_batches in islice(_steps(data, recipe), state.step, total):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(state.step, total, recipe.warmup_ratio)
            loss = _optimizer_step(accelerator, objective, optimizer, micro_batches, recipe, state.step + 1)
            state.step += 1
            state.tokens += sum(int(batch.attention_mask.sum()) for batch in micro_batches)
            state.seconds = time.monotonic() - started
            state.train_loss.append(loss)
            on_metric("train_loss", loss, state.step)
            if state.step % per_epoch == 0 or state.step == total:
                state.validation_steps.append(state.step)
                state.validation_loss.append(_mean_loss(accelerator, objective, data, recipe))
                on_metric("validation_loss", state.validation_loss[-1], state.step)
            if state.step % recipe.checkpoint_steps == 0 and state.step < total:
                save_checkpoint(checkpoint, objective, optimizer, state.model_dump())
            progress.advance(loss)
    return History(**state.model_dump(exclude={"step"}), steps=state.step)


def _steps(data: TrainingData, recipe: TrainingRecipe) -> Iterator[tuple[Batch, ...]]:
    """The micro-batches of every optimizer step, epoch after epoch; a step does not reach over the end of one."""
    for epoch in range(recipe.epochs):
        batches = epoch_batches(
            data.train(epoch), batch_size=recipe.batch_size, pad_id=data.pad_id, seed=recipe.seed, epoch=epoch
        )
        while group := tuple(islice(batches, recipe.accumulation)):
            yield group


def _optimizer_step(
    accelerator: Accelerator,
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    recipe: TrainingRecipe,
    step: int,
) -> float:
    """One update from the mean loss over all response tokens of the micro-batches."""
    objective.train()
    tokens = sum(batch.response_tokens for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        with _autocast(accelerator, recipe):
            loss = objective(Batch(*(tensor.to(accelerator.device) for tensor in batch)))
        total += loss.item()
        accelerator.backward(loss / tokens)
    if not math.isfinite(total):
        raise UsageError(f"the training loss is {total} at step {step}; lower learning_rate or max_grad_norm.")
    accelerator.clip_grad_norm_(objective.parameters(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / tokens


def _autocast(accelerator: Accelerator, recipe: TrainingRecipe) -> torch.autocast:
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


@torch.no_grad()
def _mean_loss(
    accelerator: Accelerator, objective: torch.nn.Module, data: TrainingData, recipe: TrainingRecipe
) -> float:
    objective.eval()
    total, tokens = 0.0, 0
    for batch in epoch_batches(data.validation, batch_size=recipe.batch_size, pad_id=data.pad_id, seed=0, epoch=0):
        with _autocast(accelerator, recipe):
            total += objective(Batch(*(tensor.to(accelerator.device) for tensor in batch))).item()
        tokens += batch.response_tokens
    return total / tokens
