"""The longest prompt and answer among records, in a model's own tokens."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt
from deployment.runtimes.decoding import Longest
from registry.records import LabelSet, Record, answer_text


def longest(model_dir: Path, records: Sequence[Record], labels: LabelSet, prompt: Prompt) -> Longest:
    """Of ``records`` for the Hugging Face folder ``model_dir``."""
    from transformers import AutoConfig

    from tasks.checkpoints.loading import load_tokenizer

    tokenizer = load_tokenizer(model_dir)
    answers = (answer_text(record.response, labels, compact=prompt.compact) for record in records)
    return Longest(
        prompt=len(encode_prompt(tokenizer, prompt, ""))
        + _longest(tokenizer, (prompt.plain_text(record.command) for record in records)),
        answer=len(encode_answer(tokenizer, prompt, "")) + _longest(tokenizer, answers),
        context=AutoConfig.from_pretrained(model_dir).get_text_config().max_position_embeddings,
    )


def _longest(tokenizer: Any, texts: Iterable[str]) -> int:
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return max(map(len, encoded), default=0)
