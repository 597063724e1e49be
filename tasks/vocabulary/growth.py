"""New words in a pruned vocabulary: dropped tokens come back from the base, the model keeps what it learnt."""

from pathlib import Path

import numpy as np

from deployment.prompts.prompt import Prompt
from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.loading import load_tokenizer
from tasks.checkpoints.source import open_source
from tasks.vocabulary.base import load_base
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.pruning import Origin, PruneReport, prune_from
from tasks.vocabulary.recipe import VocabularyRecipe

_COMPARED_ROWS = 256
_SCALE_MAX = 2.0  # training changes the size of the rows by per cent


def grow_vocabulary(
    model_dir: Path, base_dir: Path, out: Path, corpus: Corpus, recipe: VocabularyRecipe, *, prompt: Prompt
) -> PruneReport:
    """Write a pruned, maybe trained model to ``out`` with the further tokens that ``corpus`` and ``recipe`` ask for.

    Rows that the model has stay as they are; those of further tokens are the base's. The report's ``missing`` says
    which tokens the corpus was short of.

    Raises:
        UsageError: the model was not pruned from the model in ``base_dir``, or its embedding has another scale.
        GemmillError: the result failed its proof; nothing is written then.
    """
    base, model = load_base(base_dir), load_base(model_dir)
    if strange := model.ids.keys() - base.ids.keys():
        raise UsageError(
            f"{model_dir} has {len(strange)} tokens that {base_dir} lacks, {min(strange)!r} among them; name the base "
            "that it was pruned from."
        )
    origin = Origin(
        model_dir=model_dir,
        base_dir=base_dir,
        base=base,
        tokenizer=load_tokenizer(base_dir),
        own={base.ids[piece]: id_ for piece, id_ in model.ids.items()},
    )
    _require_same_scale(origin)
    return prune_from(origin, out, corpus, recipe, prompt, had=origin.own.keys())


def _require_same_scale(origin: Origin) -> None:
    """Rows of the base are of no use beside rows that a repair of the norms has scaled."""
    with open_source(origin.model_dir) as model, open_source(origin.base_dir) as base:
        sizes = [
            (_size(model.checkpoint, own), _size(base.checkpoint, id_))
            for id_, own in sorted(origin.own.items())[-_COMPARED_ROWS:]  # the last are single characters, all in use
        ]
    ours, theirs = np.median(sizes, axis=0)
    if not 1 / _SCALE_MAX < ours / max(theirs, np.finfo(np.float32).tiny) < _SCALE_MAX:
        raise UsageError(
            f"the embedding of {origin.model_dir} has {ours / theirs:.3g} times the scale of {origin.base_dir}'s; name "
            "a base that was repaired in the same way."
        )


def _size(checkpoint: Checkpoint, row: int) -> float:
    return float(np.abs(checkpoint.rows(EMBEDDING, row, row + 1)).mean())
