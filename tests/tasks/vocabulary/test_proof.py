"""What the proof of a pruned model refuses."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from registry.errors import GemmillError
from registry.records import Record
from tasks.checkpoints.files import VOCABULARY_MAP, read_json
from tasks.vocabulary.proof import Proof, prove
from tasks.vocabulary.pruning import PruneReport


class Forgetful:
    """A tokenizer that decodes to less than it was given."""

    def __init__(self, tokenizer: object) -> None:
        self._tokenizer = tokenizer

    def __call__(self, *arguments: object, **options: object) -> object:
        return self._tokenizer(*arguments, **options)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids[1:])


@pytest.fixture(scope="module")
def new_ids(pruned: tuple[Path, PruneReport]) -> dict[int, int]:
    return {old: new for new, old in enumerate(read_json(pruned[0] / VOCABULARY_MAP)["kept"])}


def proof_of(base_dir: Path, folder: Path, new_ids: dict[int, int], texts: list[str], after: object = None) -> Proof:
    before, pruned = (AutoTokenizer.from_pretrained(path) for path in (base_dir, folder))
    return prove(
        before, after or pruned, new_ids, texts, models=(base_dir, folder), shared=new_ids,
        prompts=[[id_ for id_ in before("The pump leaks.")["input_ids"] if id_ in new_ids]],
    )  # fmt: skip


def test_a_text_that_does_not_come_back_is_refused(
    base_dir: Path, pruned: tuple[Path, PruneReport], new_ids: dict[int, int], many_records: list[Record]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pruned[0])
    respelled = [record.command for record in many_records[200:240]]
    proof = proof_of(base_dir, pruned[0], new_ids, respelled)
    assert proof.respelled > 0 and proof.unchanged + proof.respelled == proof.texts == 40
    with pytest.raises(GemmillError, match="would not come back from its tokens after pruning; nothing was written"):
        proof_of(base_dir, pruned[0], new_ids, respelled, Forgetful(tokenizer))


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_other_logits_are_refused(
    factor: float, base_dir: Path, pruned: tuple[Path, PruneReport], new_ids: dict[int, int], tmp_path: Path
) -> None:
    shutil.copytree(pruned[0], tmp_path / "moved")
    weights = load_file(pruned[0] / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= factor
    save_file(weights, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GemmillError, match="would change a logit by"):
        proof_of(base_dir, tmp_path / "moved", new_ids, ["The pump leaks."])
