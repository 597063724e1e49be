"""Proof that a pruned model is the model it was made from: the same tokens, the same logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.errors import GemmillError
from tasks.vocabulary.counting import encoded

_TOLERANCE = 1e-5  # of a logit in float32, times the largest one where that is above 1


class Proof(BaseModel):
    """What was compared with the model before.

    Attributes:
        texts: of the corpus, each tokenised by both.
        unchanged: of these, with the same tokens.
        respelled: of these, that use a dropped token, so other ones spell them; they decode to the same text.
        prompts: whose logits were compared, at every position and over all tokens that both models have.
        logit_difference: the largest one.
    """

    model_config = ConfigDict(frozen=True)

    texts: int
    unchanged: int
    respelled: int
    prompts: int
    logit_difference: float


def prove(
    before: Any,
    after: Any,
    new_ids: Mapping[int, int],
    texts: Sequence[str],
    *,
    models: tuple[Path, Path],
    shared: Mapping[int, int],
    prompts: Sequence[Sequence[int]],
) -> Proof:
    """Compare two tokenizers on ``texts`` and two models on ``prompts``.

    Args:
        before, after: the tokenizers; ``new_ids`` leads from ids of one to ids of the other.
        models: the folders, of which ``shared`` leads from ids of one to ids of the other.
        prompts: in ids of the first model, all of them shared.

    Raises:
        GemmillError: a text of kept tokens has other ones, a text does not come back, or logits differ.
    """
    unchanged = sum(
        _same_tokens(text, old, new, before, after, new_ids)
        for text, old, new in zip(texts, encoded(before, texts), encoded(after, texts), strict=True)
    )
    return Proof(
        texts=len(texts),
        unchanged=unchanged,
        respelled=len(texts) - unchanged,
        prompts=len(prompts),
        logit_difference=_logit_difference(*models, shared, prompts),
    )


def _same_tokens(
    text: str, old: list[int], new: list[int], before: Any, after: Any, new_ids: Mapping[int, int]
) -> bool:
    if all(id_ in new_ids for id_ in old):
        if [new_ids[id_] for id_ in old] != new:
            raise GemmillError(f"pruning would tokenise {text[:60]!r} differently; nothing was written.")
        return True
    if after.decode(new) != before.decode(old):
        raise GemmillError(f"{text[:60]!r} would not come back from its tokens after pruning; nothing was written.")
    return False


def _logit_difference(before: Path, after: Path, shared: Mapping[int, int], prompts: Sequence[Sequence[int]]) -> float:
    """Both models run in float32 on the CPU, one after the other."""
    import torch

    old, new = torch.tensor(list(shared)), torch.tensor(list(shared.values()))
    expected = [logits[:, old] for logits in _logits(before, prompts)]
    found = [logits[:, new] for logits in _logits(after, [[shared[id_] for id_ in prompt] for prompt in prompts])]
    worst = max(float((left - right).abs().max()) for left, right in zip(expected, found, strict=True))
    largest = max(float(logits.abs().max()) for logits in expected)
    if not worst <= _TOLERANCE * max(1.0, largest):  # NaN fails too
        raise GemmillError(f"pruning {before} would change a logit by {worst:.3g}; nothing was written.")
    return worst


def _logits(folder: Path, prompts: Sequence[Sequence[int]]) -> Any:
    """Of each prompt in turn, (positions, vocabulary)."""
    import torch

    from tasks.checkpoints.loading import load_model

    model = load_model(folder, device="cpu")
    for prompt in prompts:
        with torch.no_grad():
            yield model(torch.tensor([list(prompt)])).logits[0]
