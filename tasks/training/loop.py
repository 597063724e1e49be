"""The one training loop: teacher and student differ in the objective that they pass in."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from pydantic import BaseModel, ConfigDict

from registry.cores import usable_cores
from registry.errors import UsageError
from tasks.quant import qat
from tasks.training.checkpoint import best_weights, load_checkpoint, load_trained, save_checkpoint, save_trained
from tasks.training.examples import IGNORE_INDEX, Batch, Example, epoch_batches
from tasks.training.finite import first_bad_tensor, last_bad_gradient
from tasks.training.objective import Objective
from tasks.training.optimizer import build_optimizer, learning_rate_factor
from tasks.training.progress import Progress
from tasks.training.recipe import TrainingRecipe
from tasks.training.sharding import shard, whole

logger = logging.getLogger(__name__)

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

    precision: str
    teacher_bits: int | None
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


def train(
    objective: Objective,
    data: TrainingData,
    recipe: TrainingRecipe,
    *,
    checkpoint: Path,
    on_metric: MetricSink,
    teacher_bits: int | None = None,
    title: str = "training",
) -> History:
    """Train the objective's model in place; where the recipe shards it, each process ends with its share.

    A run that was cut short goes on from ``checkpoint``, which the caller removes once the result is safe. Under
    torchrun the processes share each step's micro-batches, and the result is that of one process.

    Args:
        teacher_bits: of the objective's teacher; a run that goes on keeps them, as it keeps its precision.

    Raises:
        UsageError: the loss or a gradient is not finite, the message names the step and the first bad tensor; the
            run would end before quantisation sets in; or ``checkpoint`` is of another precision.
    """
    torch.set_num_threads(recipe.threads or usable_cores())
    accelerator = Accelerator(mixed_precision="no")  # its precision is one for the process; a recipe has its own
    if recipe.shard:
        shard(objective, device_type=accelerator.device.type)
        wrapped, optimizer = objective, accelerator.prepare(build_optimizer(objective, recipe))
    else:
        wrapped, optimizer = accelerator.prepare(objective, build_optimizer(objective, recipe))
    per_epoch = math.ceil(math.ceil(data.rows / recipe.batch_size) / recipe.accumulation)
    total = min(per_epoch * recipe.epochs, recipe.max_steps or per_epoch * recipe.epochs)
    if recipe.qat_start_step >= total:
        raise UsageError(f"qat_start_step is {recipe.qat_start_step}, the run has {total} steps; lower it.")
    state = _State(precision=recipe.precision, teacher_bits=teacher_bits)
    if found := load_checkpoint(checkpoint, objective, optimizer):
        state = _resumed(_State.model_validate(found), state, checkpoint)
        logger.info("%s goes on from step %d of %d", title, state.step, total)
    started = time.monotonic() - state.seconds

    with Progress(title, total, done=state.step, shown=accelerator.is_main_process) as progress:
        for micro_batches in islice(_steps(data, recipe), state.step, total):
            qat.enable(objective, state.step >= recipe.qat_start_step)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(state.step, total, recipe.warmup_ratio)
            loss, norm = _optimizer_step(accelerator, wrapped, optimizer, micro_batches, recipe, state.step + 1)
            state.step += 1
            state.tokens += sum(int(batch.attention_mask.sum()) for batch in micro_batches)
            state.seconds = time.monotonic() - started
            state.train_loss.append(loss)
            on_metric("train_loss", loss, state.step)
            on_metric("gradient_norm", norm, state.step)
            if state.step % per_epoch == 0 or state.step == total:
                state.validation_steps.append(state.step)
                state.validation_loss.append(_mean_loss(accelerator, objective, data, recipe))
                on_metric("validation_loss", state.validation_loss[-1], state.step)
                if recipe.patience and _is_over(
                    state.validation_loss, recipe.patience, accelerator, wrapped, checkpoint
                ):
                    logger.info("%s ends at step %d: no lower validation loss any more", title, state.step)
                    break
            if state.step % recipe.checkpoint_steps == 0 and state.step < total:
                objective.save_cache()
                write = accelerator.is_main_process
                save_checkpoint(checkpoint, objective, optimizer, state.model_dump(), write=write)
            progress.advance(loss)
    if recipe.patience:
        load_trained(best_weights(checkpoint), objective)
        accelerator.wait_for_everyone()  # before the first process removes it
    objective.save_cache()
    return History(**state.model_dump(exclude={"step", "precision", "teacher_bits"}), steps=state.step)


def _resumed(found: _State, told: _State, checkpoint: Path) -> _State:
    """``found``, unless it was reached in another arithmetic than the run is ``told``."""
    for name in ("precision", "teacher_bits"):
        was, now = getattr(found, name), getattr(told, name)
        if was != now:
            raise UsageError(
                f"the run that {checkpoint} would go on with has {name} {was}, the recipe says {now}; set it back or "
                "remove that file to train anew."
            )
    return found


def _is_over(
    losses: Sequence[float], patience: int, accelerator: Accelerator, wrapped: torch.nn.Module, checkpoint: Path
) -> bool:
    """Keep the weights of the lowest validation loss; whether it lies ``patience`` validations back."""
    lowest = losses.index(min(losses))
    if lowest == len(losses) - 1:
        objective = accelerator.unwrap_model(wrapped)
        save_trained(best_weights(checkpoint), objective, write=accelerator.is_main_process)
        accelerator.wait_for_everyone()
    return len(losses) - 1 - lowest >= patience


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
) -> tuple[float, float]:
    """One update from the mean loss over all response tokens of the micro-batches, in whichever process they are.

    Returns that loss and the norm of its gradient before clipping.
    """
    objective.train()
    tokens = sum(batch.response_tokens for batch in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    share = _share(micro_batches, accelerator.process_index, accelerator.num_processes)
    for index, batch in enumerate(share, start=1):
        batch = Batch(*(tensor.to(accelerator.device) for tensor in batch))
        with nullcontext() if index == len(share) else accelerator.no_sync(objective):
            with _autocast(accelerator, recipe):
                loss = objective(batch)
            _require_finite_loss(accelerator, objective, batch, loss, recipe, step)
            total += loss.detach()
            accelerator.backward(loss * (accelerator.num_processes / tokens))  # gradients are averaged over processes
    parameters = [parameter for parameter in objective.parameters() if parameter.grad is not None]
    norm = whole(
        torch.nn.utils.get_total_norm([grad for parameter in parameters if (grad := parameter.grad) is not None])
    )
    if not torch.isfinite(norm):
        bad = last_bad_gradient(accelerator.unwrap_model(objective))
        raise UsageError(f"{bad} is not finite at step {step}; lower learning_rate.")
    torch.nn.utils.clip_grads_with_norm_(parameters, recipe.max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    summed = accelerator.reduce(total, "sum")
    assert isinstance(summed, torch.Tensor)  # noqa: S101  narrows the type of reduce
    return summed.item() / tokens, norm.item()


def _require_finite_loss(
    accelerator: Accelerator,
    objective: torch.nn.Module,
    batch: Batch,
    loss: torch.Tensor,
    recipe: TrainingRecipe,
    step: int,
) -> None:
    """Every process raises the same UsageError where the loss of one is not finite."""
    bad = torch.isfinite(loss).logical_not().float()
    if not accelerator.reduce(bad, "sum"):
        return
    plain = accelerator.unwrap_model(objective)
    with _autocast(accelerator, recipe):  # in every process, as they hold the weights together
        found = first_bad_tensor(plain, lambda: plain(batch))
    place = next(filter(None, gather_object([found if bad else None])))
    raise UsageError(
        f"the training loss is not finite at step {step}, first seen in {place}; lower learning_rate or max_grad_norm."
    )


def _share(micro_batches: Sequence[Batch], process: int, processes: int) -> list[Batch]:
    """What one of several processes computes: as many forward passes as the others, the spare ones without a label."""
    spare = [
        micro_batches[0]._replace(labels=torch.full_like(micro_batches[0].labels, IGNORE_INDEX))
        for _ in range(-len(micro_batches) % processes)
    ]
    return [*micro_batches, *spare][process::processes]


def _autocast(accelerator: Accelerator, recipe: TrainingRecipe) -> torch.autocast:
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=recipe.in_bf16)


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
    return broadcast(torch.tensor(total / tokens, device=accelerator.device)).item()  # one opinion on when to stop
