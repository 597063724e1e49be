"""A model with the part of its vocabulary that a corpus needs: the rest of the embedding goes.

Of Gemma 3 270M's 268 million parameters 168 million are the embedding of 262,144 tokens. What stays is what the corpus
and the commonest words use, what makes those tokens come about in both runtimes, and what spells everything else:
bytes, the characters of common alphabets, white space.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt, require_turns
from registry.files import atomic_directory
from registry.records import Record, answer_text
from tasks.checkpoints.architectures import EMBEDDING
from tasks.checkpoints.files import VOCABULARY_MAP, read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.checkpoints.source import open_source
from tasks.tokenizers.reading import load_vocabulary
from tasks.vocabulary.base import BaseVocabulary, load_base
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.counting import count_corpus
from tasks.vocabulary.proof import Proof, prove
from tasks.vocabulary.recipe import VocabularyRecipe
from tasks.vocabulary.remapping import NewIds, remapped_config, remapped_settings, remapped_tokenizer
from tasks.vocabulary.selection import select
from tasks.vocabulary.weights import Row, write_weights

_PROMPTS, _PROMPT_TOKENS = 8, 128  # of the proof
_COPIED = ("chat_template.jinja", "README.md", "LICENSE", "NOTICE")


class PruneReport(BaseModel):
    """What was kept, for what, and the proof that it still computes the same.

    Attributes:
        kept: tokens by the first reason for which they were kept.
        coverage: share of the corpus's tokens, as often as they occur, that the new vocabulary holds.
        embedding_bytes_before, embedding_bytes: as stored in the folders.
        missing: tokens that the corpus uses and the model had lost, with how often; only where a vocabulary grows.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    tokens_before: int
    tokens: int
    kept: dict[str, int]
    coverage: float
    embedding_bytes_before: int
    embedding_bytes: int
    missing: dict[str, int]
    proof: Proof


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A model and the base whose tokens it may have: the same folder unless a vocabulary grows.

    ``own`` leads from ids of the base to ids of the model, for the tokens that the model has; rows of all others are
    the base's.
    """

    model_dir: Path
    base_dir: Path
    base: BaseVocabulary
    tokenizer: Any  # of the base
    own: Mapping[int, int]


def prune_vocabulary(
    model_dir: Path, out: Path, corpus: Corpus, recipe: VocabularyRecipe, *, prompt: Prompt
) -> PruneReport:
    """Write the model in ``model_dir`` to ``out`` with the tokens that ``corpus`` and ``recipe`` ask for.

    Weights keep their bytes, so a model may be pruned before its training or after it. ``out`` also gets
    vocabulary_map.json, whose "kept" lists the old ids by the new ones.

    Raises:
        UsageError: the folder holds no model of text alone that can be converted, its tokenizer lacks the prompt's
            turns, or the word list is needed and missing.
        GemmillError: the pruned model failed its proof; nothing is written then.
    """
    base = load_base(model_dir)
    origin = Origin(
        model_dir=model_dir,
        base_dir=model_dir,
        base=base,
        tokenizer=load_tokenizer(model_dir),
        own={id_: id_ for id_ in base.pieces},
    )
    return prune_from(origin, out, corpus, recipe, prompt)


def prune_from(
    origin: Origin,
    out: Path,
    corpus: Corpus,
    recipe: VocabularyRecipe,
    prompt: Prompt,
    *,
    had: Collection[int] = (),
) -> PruneReport:
    """What :func:`prune_vocabulary` does; the tokens ``had``, in ids of the base, stay in any case."""
    require_turns(origin.tokenizer, prompt)
    counts = count_corpus(origin.tokenizer, corpus, prompt)
    chosen = select(origin.base, origin.tokenizer, counts, recipe, had)
    new_ids, own = chosen.new_ids, origin.own
    shared = {own[id_]: new for id_, new in new_ids.items() if id_ in own}
    with (
        open_source(origin.model_dir) as model,
        open_source(origin.base_dir) as base,
        atomic_directory(out) as folder,
    ):
        rows = [Row(model.checkpoint, own[id_]) if id_ in own else Row(base.checkpoint, id_) for id_ in chosen.ids]
        write_weights(folder / "model.safetensors", model.checkpoint, rows)
        _write_settings(folder, origin, new_ids, shared)
        proof = prove(
            origin.tokenizer,
            load_tokenizer(folder),
            new_ids,
            [
                *(text for record in corpus.records for text in (record.command, _answer(record, corpus, prompt))),
                *corpus.texts,
            ],
            models=(origin.model_dir, folder),
            shared=shared,
            prompts=_prompts(origin, corpus, prompt, shared),
        )
        embedding = model.checkpoint.tensors[EMBEDDING]
    used = counts.total
    return PruneReport(
        model=str(origin.model_dir),
        tokens_before=embedding.row_count,
        tokens=len(rows),
        kept=chosen.reasons,
        coverage=sum(count for id_, count in used.items() if id_ in new_ids) / used.total(),
        embedding_bytes_before=embedding.row_count * embedding.row_bytes,
        embedding_bytes=len(rows) * embedding.row_bytes,
        missing={origin.base.pieces[id_]: count for id_, count in used.most_common() if id_ not in own},
        proof=proof,
    )


def _write_settings(folder: Path, origin: Origin, new_ids: NewIds, shared: NewIds) -> None:
    """Everything but the weights: the base's tokenizer, the model's other files, each with the new ids."""
    tokenizer = remapped_tokenizer(origin.base.tokenizer, new_ids)
    _write_json(folder / "tokenizer.json", tokenizer, indent=None)
    tokens = {origin.base.pieces[id_] for id_ in new_ids}
    for name, remap in (
        ("config.json", lambda content: {**remapped_config(content, shared), "vocab_size": len(new_ids)}),
        ("generation_config.json", lambda content: remapped_config(content, shared)),
        ("tokenizer_config.json", lambda content: remapped_settings(content, shared, tokens)),
        ("special_tokens_map.json", lambda content: remapped_settings(content, shared, tokens)),
    ):
        if (origin.model_dir / name).is_file():
            _write_json(folder / name, remap(read_json(origin.model_dir / name)))
    for name in _COPIED:
        if (origin.model_dir / name).is_file():
            shutil.copy2(origin.model_dir / name, folder / name)
    _write_json(
        folder / VOCABULARY_MAP, {"base_tokens": origin.base.config["vocab_size"], "kept": list(new_ids)}, indent=None
    )
    load_vocabulary(folder, read_json(folder / "config.json"))  # refuses what would not convert


def _write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def _answer(record: Record, corpus: Corpus, prompt: Prompt) -> str:
    assert corpus.labels is not None  # noqa: S101 - records come with their labels
    return answer_text(record.response, corpus.labels, compact=prompt.compact)


def _prompts(origin: Origin, corpus: Corpus, prompt: Prompt, shared: NewIds) -> list[list[int]]:
    """A few commands with their answers, else texts as commands, in the model's ids, dropped tokens left out."""
    tokenizer = origin.tokenizer
    if corpus.records:
        encoded = [
            encode_prompt(tokenizer, prompt, record.command)
            + encode_answer(tokenizer, prompt, _answer(record, corpus, prompt))
            for record in corpus.records[:_PROMPTS]
        ]
    else:
        encoded = [encode_prompt(tokenizer, prompt, text) for text in corpus.texts[:_PROMPTS]]
    own = ([origin.own[id_] for id_ in ids if id_ in origin.own] for ids in encoded)
    return [[id_ for id_ in ids if id_ in shared][:_PROMPT_TOKENS] for ids in own]
