"""Records as token ids, and batches of records of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deployment.prompts.prompt import Prompt, Tokenizer, encode_answer, encode_prompt
from registry.errors import UsageError
from registry.records import LabelSet, Record, answer_text

IGNORE_INDEX = -100
_BUCKET_BATCHES = 16  # sorting by length inside so many batches keeps the order random and the padding small
_BUCKETS = 4  # at the least, or a small set would make the same batches in every epoch


@dataclass(frozen=True)
class Example:
    """One record: prompt and answer as one sequence; the loss sees the answer only."""

    input_ids: tuple[int, ...]
    prompt_length: int


class Batch(NamedTuple):
    """Right-padded examples. ``labels[b, t]`` is the token that position t should predict, or IGNORE_INDEX."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64

    @property
    def response_tokens(self) -> int:
        return int((self.labels != IGNORE_INDEX).sum())


def build_examples(
    records: Sequence[Record], tokenizer: Tokenizer, prompt: Prompt, labels: LabelSet, *, max_tokens: int
) -> list[Example]:
    """Tokenise every record. Raises UsageError for one that is too long: cutting an answer teaches broken JSON."""
    examples = []
    for record in records:
        question = encode_prompt(tokenizer, prompt, record.command)
        answer = answer_text(record.response, labels, compact=prompt.compact)
        ids = question + encode_answer(tokenizer, prompt, answer)
        if len(ids) > max_tokens:
            raise UsageError(
                f"the record {record.command[:60]!r} has {len(ids)} tokens, max_tokens is {max_tokens}; raise it in "
                "the profile or shorten the record."
            )
        examples.append(Example(tuple(ids), len(question)))
    return examples


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    width = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.input_ids)
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        labels[row, example.prompt_length - 1 : len(ids) - 1] = ids[example.prompt_length :]
    return Batch(input_ids, attention_mask, labels)


def epoch_batches(
    examples: Sequence[Example],
    *,
    batch_size: int,
    pad_id: int,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    """Every example once, in an order that depends on (seed, epoch) and the lengths alone."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    bucket_size = batch_size * min(_BUCKET_BATCHES, max(1, len(order) // batch_size // _BUCKETS))
    batches = []
    for start in range(0, len(order), bucket_size):
        bucket = sorted(order[start : start + bucket_size], key=lambda i: len(examples[i].input_ids))
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield collate([examples[i] for i in batches[index]], pad_id)
