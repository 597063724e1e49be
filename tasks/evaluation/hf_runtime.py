"""Answers by PyTorch, from a Hugging Face folder or a PEFT adapter folder."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from deployment.prompts.prompt import Prompt, encode_prompt, require_turns
from deployment.runtimes.decoding import MINIMUM_CONTEXT, SEED, AnswerLimits
from deployment.runtimes.prediction import Prediction, answers_progress
from registry.errors import UsageError
from tasks.checkpoints.loading import load_tokenizer, load_with_adapter


class HuggingFaceRuntime:
    """The model in ``model_dir``, in float32, on a GPU where there is one.

    An adapter folder names its base in ``adapter_config.json``. Raises UsageError where there is no whole model.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        prompt: Prompt,
        max_new_tokens: int = 256,
        context: int = MINIMUM_CONTEXT,
        batch_size: int = 16,
        temperature: float = 0.0,
    ) -> None:
        self._temperature = temperature
        self._model_dir = model_dir
        self._prompt = prompt
        self._limits = AnswerLimits(num_ctx=context, num_predict=max_new_tokens)
        self._batch_size = batch_size

    def __enter__(self) -> Self:
        self._model, self._tokenizer = load_model(self._model_dir)
        self._require_finite()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._model, self._tokenizer

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """The answers, ``batch_size`` at a time."""
        return answers_of(
            self._model,
            self._tokenizer,
            self._prompt,
            commands,
            limits=self._limits,
            batch_size=self._batch_size,
            temperature=self._temperature,
        )

    @torch.inference_mode()
    def _require_finite(self) -> None:
        """Raise UsageError for a model whose weights, or what it makes of a prompt, are not all numbers."""
        for name, weight in self._model.named_parameters():
            if not torch.isfinite(weight).all():
                raise UsageError(
                    f"{name} of {self._model_dir} holds NaN or infinity; see gemmill inspect, then train it anew."
                )
        ids = torch.tensor([encode_prompt(self._tokenizer, self._prompt, "")], device=self._model.device)
        if not torch.isfinite(self._model(input_ids=ids).logits).all():
            raise UsageError(
                f"{self._model_dir} computes NaN or infinity from finite weights; see gemmill inspect for its norms."
            )


def load_model(folder: Path) -> tuple[Any, Any]:
    """The causal language model in ``folder``, float32 and in evaluation mode, and its tokenizer; of an adapter, those
    of its base where it has none."""
    return load_with_adapter(folder), load_tokenizer(folder)


@torch.inference_mode()
def answers_of(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    commands: Sequence[str],
    *,
    limits: AnswerLimits,
    batch_size: int,
    temperature: float = 0.0,
) -> list[Prediction]:
    """Answers of a model that is in memory, in the order of ``commands``: greedy, or drawn at ``temperature``.

    Prompts of similar length share a batch; the answer ends at the end of the turn, at EOS or after
    ``limits.num_predict`` tokens. A command that does not fit, or is longer than the model was made for, is not asked.
    """
    from transformers import GenerationConfig

    require_turns(tokenizer, prompt)
    stops = _stop_ids(tokenizer, prompt)
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    generation = GenerationConfig(
        max_new_tokens=limits.num_predict, eos_token_id=stops, pad_token_id=_pad_id(tokenizer), **drawn
    )
    torch.manual_seed(SEED)
    model.generation_config = GenerationConfig()  # else a folder's penalties would fill what is left open here
    prompts = [encode_prompt(tokenizer, prompt, command) for command in commands]
    made_for = model.config.get_text_config().max_position_embeddings
    limits = replace(limits, num_ctx=min(limits.num_ctx, made_for))
    failures = [limits.refusal(command, len(ids)) for command, ids in zip(commands, prompts, strict=True)]
    predictions = {
        index: Prediction(text="", tokens=0, seconds=0.0, failure=failure)
        for index, failure in enumerate(failures)
        if failure
    }
    order = sorted(predictions.keys() ^ range(len(prompts)), key=lambda index: len(prompts[index]))
    with answers_progress(len(order)) as progress:
        task = progress.add_task("asking the model", total=len(order))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            started = time.perf_counter()
            ids, mask = _left_padded([prompts[index] for index in batch], _pad_id(tokenizer), model.device)
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=generation)
            share = (time.perf_counter() - started) / len(batch)
            for index, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                answer = _until_stop(row, stops)
                text = tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                predictions[index] = Prediction(text=text, tokens=len(answer), seconds=share)
            progress.advance(task, len(batch))
    return [predictions[index] for index in range(len(commands))]


def _left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, longest row)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """The generated tokens up to the first stop token, which is counted; batch mates may have run longer."""
    for length, token in enumerate(ids, start=1):
        if token in stops:
            return ids[:length]
    return ids


def _stop_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    ids = [tokenizer.convert_tokens_to_ids(prompt.end), tokenizer.eos_token_id]
    return sorted({token for token in ids if token is not None})


def _pad_id(tokenizer: Any) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
